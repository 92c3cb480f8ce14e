"""Byte strings as independent zstd frames, so that many threads can work on one tensor."""

import threading
from collections.abc import Sequence

import numpy as np
import torch
import zstandard

from merge_on_load.codecs.codec import Payload
from merge_on_load.errors import CorruptPayload
from merge_on_load.specs import Bytes
from merge_on_load.tensors import raw_bytes

_LARGEST_RATIO = 1 << 16  # zstd's own limit is near it

_of_this_thread = threading.local()


def compress(data: Bytes, level: int) -> bytes:
    """One zstd frame; the same bytes for the same input and zstd version."""
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(data.data)


def decompress(frame: memoryview, size_bytes: int) -> Bytes:
    """The content of one frame: uint8[size_bytes]. Raises CorruptPayload."""
    try:
        # The frame tells its size, so check it before that much memory is set aside.
        if zstandard.frame_content_size(frame) != size_bytes:
            raise CorruptPayload("zstd frame has another size", expected=size_bytes)
        if size_bytes == 0:
            return np.empty(0, np.uint8)
        content = _decompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"malformed zstd frame: {error}") from error
    return np.frombuffer(content, np.uint8)


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's: to make one takes as long as a small frame."""
    made: zstandard.ZstdDecompressor | None = getattr(_of_this_thread, "decompressor", None)
    if made is None:
        made = _of_this_thread.decompressor = zstandard.ZstdDecompressor()
    return made


def content(frame: memoryview) -> Bytes:
    """The content of one frame of no known size: uint8[bytes]. Raises CorruptPayload.

    A frame tells its size; what tells more than _LARGEST_RATIO times its own is not believed.
    """
    try:
        size_bytes = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"malformed zstd frame: {error}") from error
    if not 0 <= size_bytes <= _LARGEST_RATIO * len(frame):
        raise CorruptPayload("zstd frame tells an unlikely size", found=size_bytes)
    return decompress(frame, size_bytes)


def join(frames: Sequence[bytes]) -> Payload:
    """Frames as a payload: `frames` uint8[total], `lengths` int64[len(frames)]."""
    lengths = torch.tensor([len(frame) for frame in frames], dtype=torch.int64)
    joined = torch.empty(int(lengths.sum()), dtype=torch.uint8)
    target = raw_bytes(joined).data
    begin = 0
    for frame in frames:
        target[begin : begin + len(frame)] = frame
        begin += len(frame)
    return {"frames": joined, "lengths": lengths}


def split(payload: Payload, count: int) -> list[memoryview]:
    """The frames of a payload that `join` made. Raises CorruptPayload unless there are `count`."""
    frames, lengths = payload.get("frames"), payload.get("lengths")
    if frames is None or lengths is None or frames.dtype != torch.uint8:
        raise CorruptPayload("payload parts 'frames' and 'lengths' are not as expected")
    sizes = [int(size) for size in lengths.flatten()]
    if len(sizes) != count or min(sizes, default=0) < 0 or sum(sizes) != frames.numel():
        raise CorruptPayload("frame lengths do not add up", expected=count, found=len(sizes))
    data = raw_bytes(frames).data
    ends = np.cumsum(np.asarray(sizes, np.int64))
    return [data[end - size : end] for size, end in zip(sizes, ends.tolist(), strict=True)]
