"""A small disk of a test's own, and something else that takes its room."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OTHER = "other"


@contextmanager
def mounted(place: Path, *how: object) -> Iterator[Path]:
    """The root of a disk, mounted as mount's arguments say.

    It is mounted in a namespace of its own: however a test ends, the disk goes with the process
    that holds it. Who is not root may mount some kinds so too; others are skipped for him only.
    """
    is_root = os.geteuid() == 0
    holder = subprocess.Popen(
        [
            *("unshare", "--mount", *([] if is_root else ["--user", "--map-root-user"])),
            *("sh", "-c", 'mount "$@" && echo mounted && cat', "sh", *map(str, how), str(place)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with holder:  # its input ends with the block, and then so does it
        assert holder.stdout is not None
        told = holder.stdout.readline()
        if told != "mounted\n":
            (pytest.fail if is_root else pytest.skip)(f"cannot mount: {told}")
        yield Path(f"/proc/{holder.pid}/root{place}")


def fill(disk: Path, left_bytes: int = 0) -> None:
    """Take all room of a disk, or all but so much, in a file `OTHER`."""
    with (disk / OTHER).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        os.fsync(file.fileno())
        file.truncate(max(0, file.tell() - left_bytes))
        os.fsync(file.fileno())
