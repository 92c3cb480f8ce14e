"""The largest differences of each row, in a few bits each, and where they are.

At one bit this is ComPEFT's ternary form (Yadav et al. 2023, arXiv:2311.13171): plus, minus or
nothing, at one size; there the largest are those of the whole tensor, here of each row, so that
rows can be built alone. Places are told by the columns between one and the next, a byte each, which
zstd codes.
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
from merge_on_load.hashing import parallel_map
from merge_on_load.specs import Bytes, TensorSpec, row_count_and_width

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
        columns = TensorSpec("I32", (rows, self._count(width)))
        return {**self.kept(rows, width).parts(), "columns": columns}

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        check_lossy_decode(base, spec)
        rows, width = row_count_and_width(spec.shape)
        columns = np.empty((rows, self._count(width)), np.int32)
        blocks = list(row_blocks(rows, width))
        coded = frames.split(payload, len(blocks))

        def place(numbered: tuple[slice, memoryview]) -> None:
            block, frame = numbered
            columns[block] = _from_gaps(frames.content(frame), columns[block].shape, width)

        parallel_map(place, zip(blocks, coded, strict=True))
        return {**self.kept(rows, width).expand(payload), "columns": torch.from_numpy(columns)}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        packed, scale, columns = parts["packed"], parts["scale"], parts["columns"]
        if out.device.type == "cpu":
            from merge_on_load import kernels

            kernels.add_at(
                *(words(base), packed.numpy(), scale.numpy(), columns.numpy()),
                *(self.group_size, self.bits, words(out)),
            )
        else:
            on_device.add_at(base, packed, scale, columns, self.group_size, self.bits, out)

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


def _from_gaps(coded: Bytes, shape: tuple[int, ...], width: int) -> Int32:
    """What `_to_gaps` was given. Raises CorruptPayload unless that many columns are in each row."""
    is_end = coded != _LONG_GAP
    passed = np.cumsum(coded, dtype=np.int64)[is_end]
    if passed.size != shape[0] * shape[1] or (coded.size and not is_end[-1]):
        raise CorruptPayload("there are not as many places as weights", found=passed.size)
    columns = np.diff(passed, prepend=0).reshape(shape) + 1
    columns = np.cumsum(columns, axis=1) - 1
    if columns.size and int(columns[:, -1].max()) >= width:
        raise CorruptPayload("a place lies beyond its row", expected=width)
    return columns.astype(np.int32)
