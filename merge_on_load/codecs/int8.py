"""Symmetric 8-bit quantisation of the difference, with one scale per group of weights."""

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.codecs import frames, on_device
from merge_on_load.codecs.codec import (
    CodecSettings,
    Payload,
    check_finite,
    check_lossy_decode,
    decode_rows,
    lossy_rows,
    part,
)
from merge_on_load.floats import Float32, row_blocks, subtract, words
from merge_on_load.specs import TensorSpec, row_count_and_width
from merge_on_load.tensors import raw_bytes
from merge_on_load.threads import parallel_map

_LARGEST = 127
_FRAME_BYTES = 1 << 20
_WORTH_IT = 7 / 8  # zstd makes a load several times as long: it has to save something

Int8 = npt.NDArray[np.int8]


class Int8Codec:
    """difference ~ scale[row, group] * value, |value| <= 127.

    Payload: `scale` float32[rows, groups] (deltas are so small that float16 scales would be
    subnormal), and the values int8[rows, width] as zstd frames, or as they are in `values` where
    zstd saves next to nothing. Groups run along the last dimension; the last may be short.
    """

    name = "int8"
    shared = frozenset[str]()

    def __init__(self, settings: CodecSettings) -> None:
        self._group_size = settings.group_size
        self._level = settings.zstd_level

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        base_rows, tuned_rows = lossy_rows(name, base, tuned)
        rows, width = tuned_rows.row_count, tuned_rows.width
        scale = np.empty((rows, self._group_count(width)), np.float32)
        values = np.empty((rows, width), np.int8)

        def encode_block(block: slice) -> None:
            groups, flat = self._groups(block, width)
            flat[:, :width] = subtract(tuned_rows.read(block), base_rows.read(block))
            largest = np.abs(groups).max(axis=2)
            check_finite(name, largest)
            scale[block] = largest / _LARGEST
            _quantise(groups, scale[block])
            values[block] = flat[:, :width]

        parallel_map(encode_block, row_blocks(rows, width))
        return {"scale": torch.from_numpy(scale), **self._squeeze(values)}

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        return decode_rows(self, base, payload, spec)

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        rows, width = row_count_and_width(spec.shape)
        scale = TensorSpec("F32", (rows, self._group_count(width)))
        return {"values": TensorSpec("I8", (rows, width)), "scale": scale}

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        check_lossy_decode(base, spec)
        expected = self.parts(spec)
        scale = part(payload, "scale", expected["scale"])
        return {"values": _values(payload, expected["values"]), "scale": scale}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        values, scale = parts["values"], parts["scale"]
        if out.device.type == "cpu":
            from merge_on_load import kernels

            kernels.add_scaled(
                words(base), values.numpy(), scale.numpy(), self._group_size, words(out)
            )
        else:
            on_device.add_scaled(base, values, scale, self._group_size, out)

    def _group_count(self, width: int) -> int:
        return -(-width // self._group_size)

    def _groups(self, block: slice, width: int) -> tuple[Float32, Float32]:
        """Zeros for a block of rows, twice: [rows, groups, group_size] and [rows, padded width]."""
        shape = (block.stop - block.start, self._group_count(width), self._group_size)
        groups = np.zeros(shape, np.float32)
        return groups, groups.reshape(shape[0], shape[1] * shape[2])

    def _squeeze(self, values: Int8) -> Payload:
        data = values.reshape(-1).view(np.uint8)
        pieces = [data[i : i + _FRAME_BYTES] for i in range(0, data.size, _FRAME_BYTES)]
        coded = parallel_map(lambda piece: frames.compress(piece, self._level), pieces)
        if sum(map(len, coded)) < _WORTH_IT * data.size:
            return frames.join(coded)
        return {"values": torch.from_numpy(values)}


def _quantise(groups: Float32, scale: Float32) -> None:
    """Divide by the scale and round to an integer of at most 127, in place."""
    # A scale that underflowed to zero belongs to differences that round to zero anyway.
    groups /= np.where(scale > 0, scale, np.float32(1))[:, :, None]
    np.rint(groups, out=groups)
    np.clip(groups, -_LARGEST, _LARGEST, out=groups)


def _values(payload: Payload, expected: TensorSpec) -> torch.Tensor:
    if "values" in payload:
        return part(payload, "values", expected)
    values = torch.empty(expected.shape, dtype=expected.torch_dtype)
    data = raw_bytes(values)
    starts = range(0, data.size, _FRAME_BYTES)
    coded = frames.split(payload, len(starts))

    def fill(numbered: tuple[int, memoryview]) -> None:
        start, frame = numbered
        target = data[start : start + _FRAME_BYTES]
        target[:] = frames.decompress(frame, target.size)

    parallel_map(fill, zip(starts, coded, strict=True), is_apart=True)
    return values
