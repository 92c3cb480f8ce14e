"""Bit-exact: the integer difference of the raw words, entropy coded.

A small change of a float is a small change of its bits read as an integer (FM-Delta,
NeurIPS 2024, builds on the same fact), so the differences have a narrow, peaked distribution.
Zigzag puts them near zero, splitting words into byte planes (as ZipNN, arXiv:2411.05239) keeps
the nearly constant high bytes apart from the noisy low ones, and zstd codes each plane.
"""

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.codecs import frames
from merge_on_load.codecs.codec import CodecSettings, Payload
from merge_on_load.errors import CorruptPayload
from merge_on_load.floats import copy_words, matrix
from merge_on_load.hashing import parallel_map
from merge_on_load.specs import Bytes, TensorSpec, row_count_and_width
from merge_on_load.tensors import raw_bytes, spec_of

_BLOCK_BYTES = 1 << 20
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Words = npt.NDArray[np.unsignedinteger]


class LosslessCodec:
    """Payload: `frames` uint8[n], `lengths` int64[blocks * planes], planes = bytes per element.

    Works for any dtype; the payload bits of NaN survive. A float base of another float dtype is
    cast to the tuned dtype first.
    """

    name = "lossless"
    shared = frozenset[str]()

    def __init__(self, settings: CodecSettings) -> None:
        self._level = settings.zstd_level

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        base_words, tuned_words = _words(_cast(base, tuned.dtype)), _words(tuned)

        def encode_block(block: slice) -> list[bytes]:
            planes = _planes(base_words[block], tuned_words[block])
            return [frames.compress(plane, self._level) for plane in planes]

        blocks = parallel_map(encode_block, _blocks(tuned_words))
        return frames.join([frame for block in blocks for frame in block])

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        if tuple(base.shape) != spec.shape:
            found = spec_of(base)
            raise CorruptPayload("payload is not for this base", expected=spec, found=found)
        tuned = torch.empty(spec.shape, dtype=spec.torch_dtype)
        self.decode_into(base, payload, tuned)
        return tuned

    def decode_into(self, base: torch.Tensor, payload: Payload, out: torch.Tensor) -> None:
        """out: contiguous, of the base's shape; it may be the base. What is corrupt is found block
        by block, so a part may be written then. Raises CorruptPayload.
        """
        from merge_on_load import kernels

        base_words, tuned_words = _words(_cast(base, out.dtype)), _words(out)
        blocks = _blocks(tuned_words)
        width = tuned_words.itemsize
        found_frames = frames.split(payload, len(blocks) * width)

        def decode_block(numbered: tuple[int, slice]) -> None:
            index, block = numbered
            planes = np.empty((width, block.stop - block.start), np.uint8)
            coded = found_frames[index * width : (index + 1) * width]
            for plane, frame in zip(planes, coded, strict=True):
                plane[:] = frames.decompress(frame, plane.size)
            kernels.add_planes(base_words[block], planes, tuned_words[block])

        parallel_map(decode_block, enumerate(blocks))

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        return {"tensor": TensorSpec(spec.dtype, row_count_and_width(spec.shape))}

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        return {"tensor": matrix(self.decode(base, payload, spec))}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        copy_words(parts["tensor"], out)


def _cast(base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return base.to(dtype) if base.dtype in _FLOATS and dtype in _FLOATS else base


def _words(tensor: torch.Tensor) -> Words:
    """The tensor's raw bits as little-endian unsigned words, flat; a view when contiguous."""
    words: Words = raw_bytes(tensor).view(f"<u{tensor.dtype.itemsize}")
    return words


def _blocks(words: Words) -> list[slice]:
    step = _BLOCK_BYTES // words.itemsize
    return [slice(i, min(i + step, words.size)) for i in range(0, words.size, step)]


def _planes(base: Words, tuned: Words) -> list[Bytes]:
    """Zigzag of tuned - base (modulo the word size), one byte plane per byte of a word."""
    difference = (tuned - base).view(f"<i{tuned.itemsize}")
    sign = difference >> (8 * tuned.itemsize - 1)
    zigzag = ((difference << 1) ^ sign).view(tuned.dtype)
    shifts = np.arange(0, 8 * tuned.itemsize, 8, dtype=tuned.dtype)
    return [(zigzag >> shift).astype(np.uint8) for shift in shifts]
