"""Many pieces of work at once, on a few threads."""

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

_MAX_THREADS = 8
_LIBRARY = ctypes.PyDLL(None)  # which keeps the interpreter lock: what is asked takes no time

T = TypeVar("T")
R = TypeVar("R")

_of_this_thread = threading.local()


def thread_count() -> int:
    """Threads worth starting for work that lets go of the interpreter lock."""
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def parallel_map(
    function: Callable[[T], R], items: Iterable[T], *, is_apart: bool = False
) -> list[R]:
    """`[function(item) for item in items]` on a few threads, this one among them; one item needs
    no other. Raises what the first of those that fail raises.

    Within such a function it is done at once: there are as many threads as are worth it. is_apart:
    meanwhile each thread stays off the others' CPUs (see `_stay_on`), as does every thread that the
    function starts, for good: of torch's, it may call none that computes much.
    """
    listed = list(items)
    is_within = getattr(_of_this_thread, "is_one_of_many", False)
    count = min(len(listed), thread_count())
    if count < 2 or is_within:
        return [function(item) for item in listed]
    found: dict[int, R] = {}
    failures: dict[int, BaseException] = {}
    left = iter(enumerate(listed))  # each thread takes the next, as the interpreter lock lets it

    def work(cpus: AbstractSet[int]) -> None:
        _stay_on(cpus)
        for number, item in left:
            if failures:
                return
            try:
                found[number] = function(item)
            except BaseException as error:
                failures[number] = error

    cpus = os.sched_getaffinity(0)
    seats = _seats(cpus, count) if is_apart else [cpus] * count
    others = [_threads().submit(work, seat) for seat in seats[1:]]
    _of_this_thread.is_one_of_many = True
    try:
        work(seats[0])
    finally:
        _of_this_thread.is_one_of_many = False
        _stay_on(cpus)
    for other in others:
        if not other.cancel():  # one that has not begun would find nothing left
            other.result()
    if failures:
        raise failures[min(failures)]
    return [found[number] for number in range(len(listed))]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Threads are started as they are needed, and stay: where they ran, they run again."""
    return ThreadPoolExecutor(_MAX_THREADS - 1, "parallel-map", _begin_thread)


os.register_at_fork(after_in_child=_threads.cache_clear)


def _begin_thread() -> None:
    _of_this_thread.is_one_of_many = True


def _seats(cpus: AbstractSet[int], count: int) -> list[AbstractSet[int]]:
    """The CPUs of each thread, of which this one is the first: none has another's."""
    own = {_current_cpu()} & cpus
    left = sorted(cpus - own)
    if not own or len(left) < count - 1:
        return [cpus] * count
    return [own, *(set(left[thread :: count - 1]) for thread in range(count - 1))]


def _stay_on(cpus: AbstractSet[int]) -> None:
    """Let this thread run on these CPUs alone, where it still may.

    A scheduler may wake a thread on the CPU of the one that woke it, as who waits for the
    interpreter's lock is, and leave both there for as long as most of the work takes.
    """
    with suppress(OSError):
        os.sched_setaffinity(0, cpus)


def _current_cpu() -> int:
    """Where this thread runs; -1 where the system does not tell."""
    asked = getattr(_LIBRARY, "sched_getcpu", None)
    return int(asked()) if asked else -1
