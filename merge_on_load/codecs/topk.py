"""The largest differences of each row, in a few bits each, and where they are.

At one bit this is ComPEFT's ternary form (Yadav et al. 2023, arXiv:2311.13171): plus, minus or
nothing, at one size; there the largest are those of the whole tensor, here of each row, so that
rows can be built alone. Places are told by the columns between one and the next, a byte each, which
zstd codes; in memory a bit marks each of them.
"""

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.codecs import frames, on_device, steps
from merge_on_load.codecs.codec import (
    CodecSettings,
    Payload,
    check_finite,
    check_lossy_decode,
    decode_rows,
    lossy_rows,
)
from merge_on_load.codecs.kept import Kept
from merge_on_load.errors import CorruptPayload
from merge_on_load.floats import Float32, row_blocks, subtract, words
from merge_on_load.specs import Bytes, TensorSpec, row_count_and_width
from merge_on_load.threads import parallel_map

_LONG_GAP = 255  # a byte that is this adds so many columns, and another one follows
_ONE_GROUP = 1 << 31  # at one bit: one size for all of a row

Int32 = npt.NDArray[np.int32]


class TopkCodec:
    """One of each `keep` columns, the largest, ~ steps (see `steps`) of `bits` bits.

    Payload: the kept weights of each row, from left to right, as `Kept` has them; their places as
    zstd frames (`frames`, `lengths`), one for each block of rows.
    """

    name = "topk"
    shared = frozenset[str]()

    def __init__(self, settings: CodecSettings) -> None:
        self.bits = settings.bits
        group_size = _ONE_GROUP if self.bits == 1 else settings.group_size
        self.group_size = steps.check_group_size(group_size, self.name)
        self.keep = settings.keep
        self._level = settings.zstd_level

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        base_rows, tuned_rows = lossy_rows(name, base, tuned)
        rows, width = tuned_rows.row_count, tuned_rows.width
        count = self._count(width)
        values = np.empty((rows, count), np.float32)

        def encode_block(block: slice) -> bytes:
            difference = subtract(tuned_rows.read(block), base_rows.read(block))
            check_finite(name, np.abs(difference).max(axis=1, initial=0))
            columns = largest(difference, count)
            values[block] = np.take_along_axis(difference, columns, axis=1)
            return frames.compress(_to_gaps(columns), self._level)

        coded = parallel_map(encode_block, row_blocks(rows, width))
        return {**self.kept(rows, width).encode(values), **frames.join(coded)}

    def kept(self, rows: int, width: int) -> Kept:
        """How the weights that stay are stored."""
        return Kept(rows, self._count(width), self.group_size, self.bits)

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        return decode_rows(self, base, payload, spec)

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        rows, width = row_count_and_width(spec.shape)
        marks = TensorSpec("U8", (rows, steps.packed_bytes(width, 1)))
        return {**self.kept(rows, width).parts(), "marks": marks}

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        from merge_on_load import kernels  # here: numba is slow to import

        check_lossy_decode(base, spec)
        rows, width = row_count_and_width(spec.shape)
        marks = np.zeros((rows, steps.packed_bytes(width, 1)), np.uint8)
        blocks = list(row_blocks(rows, width))
        coded = frames.split(payload, len(blocks))

        def mark(numbered: tuple[slice, memoryview]) -> None:
            block, frame = numbered
            gaps, count = frames.content(frame), self._count(width)
            if not kernels.mark_gaps(gaps, _LONG_GAP, count, width, marks[block]):
                raise CorruptPayload("the places of kept weights do not fit their rows")

        parallel_map(mark, zip(blocks, coded, strict=True), is_apart=True)
        return {**self.kept(rows, width).expand(payload), "marks": torch.from_numpy(marks)}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        packed, scale, marks = parts["packed"], parts["scale"], parts["marks"]
        count = self._count(out.shape[1])
        if out.device.type == "cpu":
            from merge_on_load import kernels

            kernels.add_marked(
                *(words(base), packed.numpy(), scale.numpy(), marks.numpy()),
                *(self.group_size, count, self.bits, words(out)),
            )
        else:
            on_device.add_marked(base, packed, scale, marks, self.group_size, count, self.bits, out)

    def _count(self, width: int) -> int:
        return -(-width // self.keep)


def largest(difference: Float32, count: int) -> Int32:
    """The columns of the largest magnitudes of each row, from left to right: int32[rows, count]."""
    width = difference.shape[1]
    if count == width:
        return np.broadcast_to(np.arange(width, dtype=np.int32), difference.shape).copy()
    found = np.argpartition(np.abs(difference), width - count, axis=1)[:, width - count :]
    return np.sort(found, axis=1).astype(np.int32)


def _to_gaps(columns: Int32) -> Bytes:
    """Columns passed over before each, from row to row; long ones as several bytes."""
    before = np.concatenate([np.full((len(columns), 1), -1, np.int32), columns[:, :-1]], axis=1)
    gaps = (columns - before - 1).reshape(-1)
    long_counts = gaps // _LONG_GAP
    coded = np.full(gaps.size + int(long_counts.sum()), _LONG_GAP, np.uint8)
    coded[np.arange(gaps.size) + np.cumsum(long_counts)] = gaps % _LONG_GAP
    return coded
