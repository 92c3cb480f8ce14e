"""One weight in so many, at places that cost no bytes, in a few bits each.

Yu et al. 2023, "Language Models are Super Mario", arXiv:2311.03099 (DARE): of a fine-tune's
differences most can be dropped at random, if those that stay are scaled up by as much. Here each
row is cut into blocks of `keep` columns and one of each block stays, at a place that a hash of
seed, row and block gives: as many in every row, which a mask drawn weight by weight would not have.
"""

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.codecs import on_device, steps
from merge_on_load.codecs.codec import (
    CodecSettings,
    Payload,
    check_finite,
    check_lossy_decode,
    decode_rows,
    lossy_rows,
)
from merge_on_load.codecs.kept import Kept
from merge_on_load.floats import row_blocks, subtract, words
from merge_on_load.specs import TensorSpec, row_count_and_width
from merge_on_load.threads import parallel_map

Int32 = npt.NDArray[np.int32]


class SparseCodec:
    """One of each `keep` columns ~ keep * difference, as steps (see `steps`) of `bits` bits.

    Payload: the kept weights of each row, in their order, as `Kept` has them.
    """

    name = "sparse"
    shared = frozenset[str]()

    def __init__(self, settings: CodecSettings) -> None:
        self.keep = settings.keep
        self.bits = settings.bits
        self.group_size = steps.check_group_size(settings.group_size, self.name)
        self._seed = settings.seed

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        from merge_on_load import kernels

        base_rows, tuned_rows = lossy_rows(name, base, tuned)
        rows, width = tuned_rows.row_count, tuned_rows.width
        values = np.empty((rows, -(-width // self.keep)), np.float32)
        seeds = _row_seeds(self._seed, rows)

        def encode_block(block: slice) -> None:
            difference = subtract(tuned_rows.read(block), base_rows.read(block))
            check_finite(name, np.abs(difference).max(axis=1, initial=0))
            places = kernels.places(seeds[block], width, self.keep)
            kept = np.take_along_axis(difference, places, axis=1)
            values[block] = kept * np.float32(self.keep)

        parallel_map(encode_block, row_blocks(rows, width))
        return self.kept(rows, width).encode(values)

    def kept(self, rows: int, width: int) -> Kept:
        """How the weights that stay are stored."""
        return Kept(rows, -(-width // self.keep), self.group_size, self.bits)

    def places(self, rows: int, width: int) -> Int32:
        """The columns that stay, of each row: int32[rows, ceil(width / keep)]."""
        from merge_on_load import kernels

        found: Int32 = kernels.places(_row_seeds(self._seed, rows), width, self.keep)
        return found

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        return decode_rows(self, base, payload, spec)

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        rows, width = row_count_and_width(spec.shape)
        return {**self.kept(rows, width).parts(), "seeds": TensorSpec("I32", (rows,))}

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        check_lossy_decode(base, spec)
        rows, width = row_count_and_width(spec.shape)
        seeds = torch.from_numpy(_row_seeds(self._seed, rows))
        return {**self.kept(rows, width).expand(payload), "seeds": seeds}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        packed, scale, seeds = parts["packed"], parts["scale"], parts["seeds"]
        if out.device.type == "cpu":
            from merge_on_load import kernels

            kernels.add_sparse(
                *(words(base), packed.numpy(), scale.numpy(), seeds.numpy(), self.group_size),
                *(self.keep, self.bits, words(out)),
            )
        else:
            on_device.add_sparse(
                base, packed, scale, seeds, self.group_size, self.keep, self.bits, out
            )


def _row_seeds(seed: int, rows: int) -> Int32:
    """A seed for each row: SplitMix64 (Steele et al. 2014) of the seed and the row's number."""
    with np.errstate(over="ignore"):
        word = np.uint64(seed) + np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    return (word >> np.uint64(32)).astype(np.uint32).view(np.int32)
