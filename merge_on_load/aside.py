"""Write a directory aside, then rename it: under the final name stands all of it or nothing."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from merge_on_load.errors import DiskFull, MergeError, OutputExists

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_aside(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a fresh directory beside `out` that becomes `out` when the block ends well.

    Files are flushed to disk before the rename. When the block raises, the directory is removed.
    A killed process leaves `.OUT.partial-<pid>-*` behind, never `out`. With `overwrite` an
    earlier checkpoint or delta is moved away only after the new one is complete.
    Raises OutputExists, DiskFull. An error of the block that names the directory names `out`.
    """
    _check_free(out, overwrite)
    partial = _sibling(out, "partial")
    begun_bytes = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            yield partial
            _flush(partial)
            _check_free(out, overwrite)
            _rename(partial, out)
        except BaseException:
            begun_bytes = _size_bytes(partial)
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except MergeError as error:
        if error.file != str(partial):
            raise
        raise _about(out, error) from error
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _disk_full(out, error, begun_bytes) from error
    _flush_directory(out.parent)


def check_output_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Raise OutputExists when the output would replace one of its own inputs."""
    for path in inputs:
        if out.resolve() == path.resolve():
            raise OutputExists("output would replace its own input", file=out)


def _about(out: Path, error: MergeError) -> MergeError:
    """The same error, of `out`: nobody finds the directory aside any more."""
    return type(error)(
        error.problem,
        file=out,
        tensor=error.tensor,
        expected=error.expected,
        found=error.found,
    )


def _size_bytes(directory: Path) -> int:
    """What the files there are to take, as far as they were begun; 0 where that cannot be seen.

    A checkpoint's shards have their full size from the beginning.
    """
    try:
        return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    except OSError:
        return 0


def _disk_full(out: Path, error: OSError, begun_bytes: int) -> DiskFull:
    """Tells what is free, now that nothing of the output is there, where that was lacking."""
    free_bytes = None
    if error.errno == errno.ENOSPC:
        there = next(path for path in out.absolute().parents if path.exists())
        free_bytes = shutil.disk_usage(there).free
    return DiskFull(
        f"nothing was written: {error.strerror}",
        file=out,
        expected=f"more than {begun_bytes} bytes" if begun_bytes else None,
        found=None if free_bytes is None else f"{free_bytes} bytes free",
    )


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
