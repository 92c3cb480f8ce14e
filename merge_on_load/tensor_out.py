"""Files of tensors, written block by block at planned places, past the page cache where that works.

A merge writes as much as it may take memory: through the page cache that evicts what is read, and
is written to the disk all the same in the end, when the file is synced. `O_DIRECT` wants whole
pages; what of a tensor does not fill its first and last page goes through the cache.
"""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[Any]

PAGE_BYTES = 4096
BUFFER_BYTES = 4 << 20


class OutFile:
    """A new file that several threads write, each its own places. Use `OutFile.create`."""

    def __init__(self, descriptor: int, direct: int | None) -> None:
        """direct: a second descriptor with O_DIRECT; None where the filesystem has none."""
        self._descriptor = descriptor
        self._direct = direct
        self._buffers: list[mmap.mmap] = []

    @classmethod
    @contextmanager
    def create(cls, path: Path, size_bytes: int) -> "Iterator[OutFile]":
        """Yield a file of that size. Raises OSError."""
        flags = os.O_WRONLY | os.O_CLOEXEC
        with ExitStack() as opened:  # closes both, though one says while it is closed: no room
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            opened.callback(os.close, descriptor)
            os.truncate(descriptor, size_bytes)
            direct = None
            try:
                direct = os.open(path, flags | os.O_DIRECT)
                opened.callback(os.close, direct)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            yield cls(descriptor, direct)

    def write(self, content: memoryview, offset: int) -> None:
        """Write all of it at offset. Raises OSError."""
        _write_all(self._descriptor, content, offset)

    def write_pages(self, content: memoryview, offset: int) -> None:
        """The same for whole pages, at a page's begin in file and memory. Raises OSError."""
        direct = self._direct
        if direct is not None:
            try:
                _write_all(direct, content, offset)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = None  # it was opened so, and yet is not written; `create` closes it
        self.write(content, offset)

    def take_buffer(self, size_bytes: int) -> mmap.mmap:
        """Memory that begins at a page, of that size at least: one that was given back, or new."""
        while self._buffers:
            try:
                buffer = self._buffers.pop()
            except IndexError:  # another thread took the last
                break
            if len(buffer) >= size_bytes:
                return buffer
        return mmap.mmap(-1, max(size_bytes, BUFFER_BYTES))

    def give_buffer(self, buffer: mmap.mmap) -> None:
        """The next one may have it."""
        self._buffers.append(buffer)


class TensorOut:
    """One tensor's place: an `Out` of merge methods.

    Blocks are gathered in a buffer and written by whole pages; out of order they cost more.
    """

    def __init__(self, file: OutFile, offset: int, words: np.dtype[Any], size_bytes: int) -> None:
        """offset: where the tensor begins in the file. words: dtype of the blocks."""
        self._file = file
        self._offset = offset
        self._words = words
        self._left_bytes = size_bytes
        self._buffer: mmap.mmap | None = None
        self._origin = 0  # of the buffer in the file, a multiple of a page
        self._begin = self._end = 0  # what of the buffer is filled

    def room(self, begin: int, end: int) -> Words:
        """A place in the buffer."""
        first, last = (self._offset + one * self._words.itemsize for one in (begin, end))
        if self._buffer is None or first != self._origin + self._end:
            self._flush(keeps_rest=False)
            self._move(first, last)
        elif last - self._origin > len(self._buffer):
            self._flush(keeps_rest=True)
            if last - self._origin > len(self._buffer):
                self._flush(keeps_rest=False)
                self._move(first, last)
        count = end - begin
        return np.frombuffer(self._buffer, self._words, count, self._end)  # type: ignore[arg-type]

    def put(self, begin: int, end: int) -> None:
        """Raises OSError: the disk is full."""
        size = (end - begin) * self._words.itemsize
        self._end += size
        self._left_bytes -= size
        if self._left_bytes == 0:
            self._flush(keeps_rest=False)
            if self._buffer is not None:
                self._file.give_buffer(self._buffer)
                self._buffer = None

    def _move(self, first: int, last: int) -> None:
        """Let the buffer begin at or before `first`, and reach to `last` at least."""
        self._origin = first // PAGE_BYTES * PAGE_BYTES
        self._begin = self._end = first - self._origin
        if self._buffer is None or len(self._buffer) < last - self._origin:
            self._buffer = self._file.take_buffer(last - self._origin)

    def _flush(self, *, keeps_rest: bool) -> None:
        """Write what there is. keeps_rest: all but a last page that is not full yet."""
        if self._buffer is None or self._begin == self._end:
            return
        view = memoryview(self._buffer)
        first = -(-self._begin // PAGE_BYTES) * PAGE_BYTES
        last = self._end // PAGE_BYTES * PAGE_BYTES
        if first >= last:
            self._file.write(view[self._begin : self._end], self._origin + self._begin)
            self._begin = self._end
            return
        if self._begin < first:
            self._file.write(view[self._begin : first], self._origin + self._begin)
        self._file.write_pages(view[first:last], self._origin + first)
        rest = self._end - last
        if not keeps_rest:
            self._file.write(view[last : self._end], self._origin + last)
            self._begin = self._end
            return
        view[:rest] = view[last : self._end]
        self._origin, self._begin, self._end = self._origin + last, 0, rest


class MemoryOut:
    """Fills an array. words: [element_count] of the job's words."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def room(self, begin: int, end: int) -> Words:
        """The place itself."""
        return self._words[begin:end]

    def put(self, begin: int, end: int) -> None:
        """It is there already."""


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    content = content.cast("B")
    while content:
        written = os.pwrite(descriptor, content, offset)
        content = content[written:]
        offset += written
