"""Digests of weights and files, and many pieces of work at once, in bounded memory.

Whatever may be large is hashed by BLAKE3 (decision 0034); documents, and what is made of digests,
by SHA-256 where they are.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from merge_on_load.specs import Bytes

_PIECE_BYTES = 1 << 20
_MAX_THREADS = 8

T = TypeVar("T")
R = TypeVar("R")

_of_this_thread = threading.local()


def thread_count() -> int:
    """Threads worth starting for work that lets go of the interpreter lock."""
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[function(item) for item in items]` on a few threads, this one among them; one item needs
    no other. Raises what the first of those that fail raises.

    Within such a function it is done at once: there are as many threads as are worth it.
    """
    listed = list(items)
    is_within = getattr(_of_this_thread, "is_one_of_many", False)
    count = min(len(listed), thread_count())
    if count < 2 or is_within:
        return [function(item) for item in listed]
    found: dict[int, R] = {}
    failures: dict[int, BaseException] = {}
    left = iter(enumerate(listed))  # each thread takes the next, as the interpreter lock lets it

    def work() -> None:
        _of_this_thread.is_one_of_many = True
        for number, item in left:
            if failures:
                return
            try:
                found[number] = function(item)
            except BaseException as error:
                failures[number] = error

    with ThreadPoolExecutor(count - 1) as threads:
        others = [threads.submit(work) for _ in range(count - 1)]
        try:
            work()
        finally:
            _of_this_thread.is_one_of_many = False
    for other in others:
        other.result()
    if failures:
        raise failures[min(failures)]
    return [found[number] for number in range(len(listed))]


def digest_of(raw: Bytes) -> str:
    """BLAKE3 of bytes, uint8[size_bytes], hex."""
    return blake3(raw.data).hexdigest()


def file_digest(path: Path) -> str:
    """BLAKE3 of a file, hex; reads 1 MiB at a time."""
    digest = blake3()
    piece = bytearray(_PIECE_BYTES)
    view = memoryview(piece)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(view[:count])
    return digest.hexdigest()
