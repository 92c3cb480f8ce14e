"""SHA-256 of files and of many pieces at once, in bounded memory."""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_PIECE_BYTES = 1 << 20
_MAX_THREADS = 8

T = TypeVar("T")
R = TypeVar("R")


def thread_count() -> int:
    """Threads worth starting for work that lets go of the interpreter lock."""
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[function(item) for item in items]` on a few threads, in order; one item needs none."""
    listed = list(items)
    if len(listed) < 2 or thread_count() < 2:
        return [function(item) for item in listed]
    with ThreadPoolExecutor(thread_count()) as threads:
        return list(threads.map(function, listed))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex; reads 1 MiB at a time."""
    digest = hashlib.sha256()
    piece = bytearray(_PIECE_BYTES)
    view = memoryview(piece)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(view[:count])
    return digest.hexdigest()
