"""Write a directory aside, then rename it: under the final name stands all of it or nothing."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from merge_on_load.errors import DiskFull, OutputExists

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_aside(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a fresh directory beside `out` that becomes `out` when the block ends well.

    Files are flushed to disk before the rename. When the block raises, the directory is removed.
    A killed process leaves `.OUT.partial-<pid>-*` behind, never `out`. With `overwrite` an
    earlier checkpoint or delta is moved away only after the new one is complete.
    Raises OutputExists, DiskFull.
    """
    _check_free(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = _sibling(out, "partial")
    partial.mkdir()
    try:
        yield partial
        _flush(partial)
        _check_free(out, overwrite)
        _rename(partial, out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise DiskFull(f"nothing was written: {error.strerror}", file=out) from error
        raise
    _flush_directory(out.parent)


def check_output_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Raise OutputExists when the output would replace one of its own inputs."""
    for path in inputs:
        if out.resolve() == path.resolve():
            raise OutputExists("output would replace its own input", file=out)


def _check_free(out: Path, overwrite: bool) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise OutputExists("output exists already", file=out)
    if out.is_symlink() or not out.is_dir() or not _is_ours(out):
        raise OutputExists("refuse to replace what is neither checkpoint nor delta", file=out)


def _is_ours(out: Path) -> bool:
    names = [path.name for path in out.iterdir()]
    return not names or "delta.json" in names or any(n.endswith(".safetensors") for n in names)


def _rename(partial: Path, out: Path) -> None:
    if not out.exists():
        try:
            partial.rename(out)
        except OSError as error:
            if out.exists():  # another writer was faster
                raise OutputExists("output exists already", file=out) from error
            raise
        return
    earlier = _sibling(out, "earlier")
    out.rename(earlier)
    try:
        partial.rename(out)
    except BaseException:
        earlier.rename(out)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _sibling(out: Path, what: str) -> Path:
    """A hidden name beside `out`: the random part is for pids, which repeat in containers."""
    return out.parent / f".{out.name}.{what}-{os.getpid()}-{secrets.token_hex(4)}"


def _flush(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_dir():
            _flush_directory(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_directory(directory)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
