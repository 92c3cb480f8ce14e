"""Keep a checkpoint on this node: python -m model_pool.node_cache SOURCE TARGET.

For the init container of a worker's pod: the first on a node copies the base from a slow volume,
the others find it. Run again, it checks what is there, and replaces it where it is not whole.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from merge_on_load.aside import written_aside
from merge_on_load.errors import MergeError
from merge_on_load.hashing import file_digest
from merge_on_load.threads import parallel_map
from model_pool.logs import start_logging

DIGESTS = "node-cache.json"  # in the copy: BLAKE3 of each file as it was read from the source
log = logging.getLogger(__name__)


class BrokenCopy(Exception):
    """What was written is not what was read; the text names the file."""


def keep(source: Path, target: Path) -> bool:
    """Make target a whole copy of source. Returns whether anything was copied.

    Both are directories of files. Processes on one node take turns, by a lock beside target; target
    is there as a whole or not at all, and may be replaced under those who read it: they keep what
    they have open. Raises OSError, MergeError, BrokenCopy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _turn(target.with_name(f".{target.name}.lock")):
        if _is_whole(source, target):
            return False
        # Left by one that was killed; nobody else is at it.
        for leftover in target.parent.glob(f".{target.name}.*-*"):
            shutil.rmtree(leftover)
        if (target / DIGESTS).is_file() and not any(target.glob("*.safetensors")):
            shutil.rmtree(target)  # ours, and of no use; `written_aside` does not know it as such
        with written_aside(target, overwrite=True) as directory:
            _copy(source, directory)
    return True


@contextlib.contextmanager
def _turn(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process, too
        yield


def _copy(source: Path, directory: Path) -> None:
    digests = {}
    for name in _sizes(source):
        shutil.copyfile(source / name, directory / name)
        digests[name] = file_digest(source / name)
    for name, written in zip(digests, _digests(directory, list(digests)), strict=True):
        if written != digests[name]:
            raise BrokenCopy(f"{directory / name}: not what was read from {source / name}")
    (directory / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n")


def _is_whole(source: Path, target: Path) -> bool:
    """Whether target has source's files, by name and size, with the bytes that were once read."""
    try:
        digests: dict[str, str] = json.loads((target / DIGESTS).read_text())
        sizes = _sizes(target)
    except (OSError, ValueError):
        return False
    sizes.pop(DIGESTS, None)
    if sizes != _sizes(source) or set(digests) != set(sizes):
        return False
    return _digests(target, list(digests)) == list(digests.values())


def _sizes(directory: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.is_file()
    }


def _digests(directory: Path, names: list[str]) -> list[str]:
    return parallel_map(lambda name: file_digest(directory / name), names)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model_pool.node_cache", description=__doc__)
    parser.add_argument("source", type=Path, help="a checkpoint's directory")
    parser.add_argument("target", type=Path, help="where it is to be on this node")
    options = parser.parse_args(arguments)
    start_logging()
    try:
        is_new = keep(options.source, options.target)
    except (OSError, MergeError, BrokenCopy) as error:
        log.error("base_not_kept", extra={"target": str(options.target), "reason": str(error)})
        return 1
    log.info("base_kept", extra={"target": str(options.target), "is_new": is_new})
    return 0


if __name__ == "__main__":
    sys.exit(main())
