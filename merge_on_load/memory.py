"""Memory that comes fast: in huge pages, and again where it was.

A system hands out memory page by page when it is first touched, which takes longer than filling it.
Most give pages of two megabytes to who asks for them ("madvise" in
/sys/kernel/mm/transparent_hugepage/enabled).
"""

import ctypes
import functools
import mmap
import threading
from collections.abc import Callable

import torch

_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)


def ask_for_huge_pages(tensor: torch.Tensor) -> None:
    """Have memory that is not touched yet come in huge pages, if the system has any.

    tensor: contiguous, on a CPU. What it holds stays as it is; pages that it has stay small.
    """
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.itemsize
    begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (end - begin) // mmap.PAGESIZE * mmap.PAGESIZE
    advise = _madvise()
    if advise is not None and size > 0:
        advise(begin, size, _ADVICE)  # an advice: where it is refused, all is as before


@functools.cache
def _madvise() -> Callable[..., int] | None:
    """The system's own, which also takes memory that Python did not map."""
    function = getattr(ctypes.CDLL(None), "madvise", None) if _ADVICE is not None else None
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


class Room:
    """Memory for what is needed one after the other; each thread that asks has its own."""

    def __init__(self) -> None:
        self._of_threads = threading.local()

    def of(self, size_bytes: int) -> torch.Tensor:
        """uint8[size_bytes], of any content: where what this thread had before is."""
        held: torch.Tensor | None = getattr(self._of_threads, "held", None)
        if held is None or held.numel() < size_bytes:
            held = self._of_threads.held = torch.empty(size_bytes, dtype=torch.uint8)
            ask_for_huge_pages(held)
        return held[:size_bytes]
