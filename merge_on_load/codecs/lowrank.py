"""A product of two thin matrices, in mixed precision, and where asked one bit per weight beside it.

Ping et al. 2024, "Delta-CoMe: Training-Free Delta-Compression with Mixed-Precision for Large
Language Models", arXiv:2406.08903: the singular vectors of the largest singular values get more
bits than those that follow. There the vectors are quantised by their inputs (GPTQ); here the right
ones are, and the left ones are fitted to what has become of them by least squares, then quantised
too. The bit beside it is BitDelta's (arXiv:2402.10193) of what the product leaves.

Decoded, both factors are integers with a scale for each row of the one and each column of the other
(decision 0030): that rounds a second time, by at most half a part in 127 of the largest factor of
that row or column, or in thousands where one of the vectors has 16 bits.
"""

import math
from collections.abc import Iterator

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
    part,
)
from merge_on_load.floats import Float32, row_blocks, subtract, widened, words
from merge_on_load.specs import TensorSpec, row_count_and_width

WIDE_BITS = 16  # factors in bfloat16
_EXTRA = 16  # vectors that are followed beside those that are wanted
_ITERATIONS = 4
_LARGE = 1 << 24  # weights, of which a whole decomposition takes minutes and much memory
_LEAST = np.float32(2.0**-40)  # a largest difference, whose squares float32 holds as they are
_USUAL_RANK = 16  # where the settings tell none
_WORD_BYTES = 4  # factors of one row that the kernel takes at once
_IN_ORDER = ("left", "right", "left_scale", "right_scale", "signs", "sign_scale")
_BANDS = (WIDE_BITS, 8, 4, 3, 2)  # bits of the singular vectors, the first of them first

Factors = npt.NDArray[np.signedinteger]


class LowrankCodec:
    """difference ~ left @ right, and sign * scale[row] beside it where `residual` is 1.

    Payload, for each band of b bits that has vectors: `left_b`, `right_b`, in bfloat16
    [rank, rows] and [rank, width] for 16 bits, else packed steps (see `steps`) of each vector with
    `left_scale_b`, `right_scale_b` bfloat16[rank, groups]. With a residual `signs`
    uint8[rows, 4 * words] and `sign_scale` bfloat16[rows].
    """

    name = "lowrank"
    shared = frozenset({"right", "right_scale"})

    def __init__(self, settings: CodecSettings) -> None:
        counts = (getattr(settings, f"rank{bits}") for bits in _BANDS)
        self._bands = {bits: count for bits, count in zip(_BANDS, counts, strict=True) if count}
        self._bands = self._bands or {WIDE_BITS: _USUAL_RANK}
        self._rank: int = sum(self._bands.values())
        self._dtype = "I16" if WIDE_BITS in self._bands else "I8"
        self.has_residual = bool(settings.residual)
        self.group_size = settings.group_size

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        base_rows, tuned_rows = lossy_rows(name, base, tuned)
        blocks = list(row_blocks(tuned_rows.row_count, tuned_rows.width))
        difference = np.empty((tuned_rows.row_count, tuned_rows.width), np.float32)
        for block in blocks:
            difference[block] = subtract(tuned_rows.read(block), base_rows.read(block))
            check_finite(name, np.abs(difference[block]).max(axis=1, initial=0))
        left, right = self.factors(difference)
        payload: dict[str, torch.Tensor] = {}
        left = self._coded(payload, "left", left.T).T
        right = self._coded(payload, "right", right)
        if self.has_residual:
            rests = [coded_signs(difference[block] - left[block] @ right) for block in blocks]
            rests = rests or [coded_signs(difference)]
            payload |= {name: torch.cat([rest[name] for rest in rests]) for name in rests[0]}
        return payload

    def factors(self, difference: Float32) -> tuple[Float32, Float32]:
        """left [rows, rank] and right [rank, width] before they are coded; left fits by least
        squares what becomes of right.
        """
        _, right = thin_factors(difference, self._rank)
        right = np.concatenate(
            [right, np.zeros((self._rank - len(right), right.shape[1]), np.float32)]
        )
        coded = self._coded({}, "right", right)
        return _fitted(difference, coded), right

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        return decode_rows(self, base, payload, spec)

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        rows, width = row_count_and_width(spec.shape)
        sign_bytes = steps.packed_bytes(width, 1) if self.has_residual else 0
        return {
            "left": TensorSpec(self._dtype, (rows, self._padded_rank)),
            "right": TensorSpec(
                self._dtype, (steps.word_count(width), self._padded_rank * steps.LANES)
            ),
            "left_scale": TensorSpec("F32", (rows,)),
            "right_scale": TensorSpec("F32", (steps.word_count(width) * steps.LANES,)),
            "signs": TensorSpec("U8", (rows, sign_bytes)),
            "sign_scale": TensorSpec("F32", (rows,)),
        }

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        check_lossy_decode(base, spec)
        rows, width = row_count_and_width(spec.shape)
        left, right = self.stored_factors(payload, spec)
        left_factors, left_scale = self._whole(left, rows)
        right_factors, right_scale = self._whole(right, steps.word_count(width) * steps.LANES)
        found = {
            "left": torch.from_numpy(left_factors),
            "right": torch.from_numpy(_by_lines(right_factors)),
            "left_scale": torch.from_numpy(left_scale),
            "right_scale": torch.from_numpy(right_scale),
            "signs": torch.empty((rows, 0), dtype=torch.uint8),
            "sign_scale": torch.from_numpy(np.zeros(rows, np.float32)),
        }
        if self.has_residual:
            expected = self.parts(spec)
            found["signs"] = part(payload, "signs", expected["signs"])
            scale = part(payload, "sign_scale", TensorSpec("BF16", (rows,)))
            found["sign_scale"] = torch.from_numpy(widened(scale))
        return found

    def stored_factors(self, payload: Payload, spec: TensorSpec) -> tuple[Float32, Float32]:
        """What the payload of a tensor of `spec` holds: left [rank, rows], right [rank, width].

        Raises CorruptPayload.
        """
        rows, width = row_count_and_width(spec.shape)
        left, right = (
            np.concatenate(
                [self._decoded(payload, side, bits, ranks, size) for bits, ranks in self.bands()]
            )
            for side, size in (("left", rows), ("right", width))
        )
        return left, right

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        left, right, scale, column_scale, signs, sign_scale = (parts[name] for name in _IN_ORDER)
        if out.device.type == "cpu":
            from merge_on_load import kernels

            kernels.add_product(
                *(words(base), left.numpy(), right.numpy(), scale.numpy(), column_scale.numpy()),
                *(signs.numpy(), sign_scale.numpy(), words(out)),
            )
        else:
            on_device.add_product(base, left, right, scale, column_scale, signs, sign_scale, out)

    def bands(self) -> Iterator[tuple[int, slice]]:
        """Bits of each band, and which ranks are in it."""
        begin = 0
        for bits, count in self._bands.items():
            yield bits, slice(begin, begin + count)
            begin += count

    @property
    def _padded_rank(self) -> int:
        """Whole words of four bytes."""
        each = _WORD_BYTES // self._factor_type.itemsize
        return -(-self._rank // each) * each

    @property
    def _factor_type(self) -> np.dtype[np.signedinteger]:
        return np.dtype(np.int16 if self._dtype == "I16" else np.int8)

    def _whole(self, vectors: Float32, count: int) -> tuple[Factors, Float32]:
        """[rank, size] -> integers [count, padded rank] and a scale for each of the first axis."""
        largest = largest_factor(self._factor_type, self._rank)
        turned = np.zeros((count, self._padded_rank), np.float32)
        turned[: vectors.shape[1], : self._rank] = vectors.T
        scale = np.abs(turned).max(axis=1, initial=0) / np.float32(largest)
        divided = turned / np.where(scale > 0, scale, np.float32(1))[:, None]
        np.clip(np.rint(divided, out=divided), -largest, largest, out=divided)
        return divided.astype(self._factor_type), scale

    def _coded(self, payload: dict[str, torch.Tensor], side: str, vectors: Float32) -> Float32:
        """Adds the parts of [rank, size] to the payload. Returns what they stand for."""
        found = []
        for bits, ranks in self.bands():
            band = np.array(vectors[ranks], np.float32, order="C")  # a copy, to be written over
            if bits == WIDE_BITS:
                stored = torch.from_numpy(band).bfloat16()
                payload[f"{side}_{bits}"] = stored
                found.append(widened(stored))
                continue
            rows, size = band.shape
            packed = np.empty((rows, steps.packed_bytes(size, bits)), np.uint8)
            scale = np.empty((rows, -(-size // self.group_size)), np.float32)
            for block in row_blocks(rows, size):
                codes, scale[block] = steps.quantise_rows(band[block], self.group_size, bits)
                packed[block] = steps.pack(codes, bits)
                band[block] = steps.dequantise_rows(codes, scale[block], self.group_size, bits)
            payload[f"{side}_{bits}"] = torch.from_numpy(packed)
            payload[f"{side}_scale_{bits}"] = torch.from_numpy(scale).bfloat16()
            found.append(band)
        return np.concatenate(found)

    def _decoded(self, payload: Payload, side: str, bits: int, ranks: slice, size: int) -> Float32:
        count = ranks.stop - ranks.start
        if bits == WIDE_BITS:
            stored = part(payload, f"{side}_{bits}", TensorSpec("BF16", (count, size)))
            return widened(stored)
        packed = part(
            payload, f"{side}_{bits}", TensorSpec("U8", (count, steps.packed_bytes(size, bits)))
        )
        groups = -(-size // self.group_size)
        scale = part(payload, f"{side}_scale_{bits}", TensorSpec("BF16", (count, groups)))
        codes = steps.unpack(packed.numpy(), size, bits)
        return steps.dequantise_rows(codes, widened(scale), self.group_size, bits)


def largest_factor(dtype: np.dtype[np.signedinteger], rank: int) -> int:
    """The largest integer of which so many products add up to less than 2**31."""
    return min(int(np.iinfo(dtype).max), math.isqrt((2**31 - 1) // max(1, rank)))


def _by_lines(factors: Factors) -> Factors:
    """[lines * 32, padded rank] -> [lines, padded rank * 32], see `kernels.add_product`."""
    count, rank = factors.shape
    each = _WORD_BYTES // factors.itemsize
    split = factors.reshape(count // steps.LANES, steps.LANES, rank // each, each)
    lines: Factors = np.ascontiguousarray(split.swapaxes(1, 2))
    return lines.reshape(count // steps.LANES, rank * steps.LANES)


def thin_factors(difference: Float32, rank: int) -> tuple[Float32, Float32]:
    """left [rows, rank or less] and right [rank or less, width] whose product is nearest, the
    singular values shared evenly.

    Where few of many are wanted, or the matrix is large, by subspace iteration from a fixed start
    (Halko et al. 2011, arXiv:0909.4061), else the whole decomposition.
    """
    rank = min(rank, *difference.shape)
    largest = np.abs(difference).max(initial=0)
    size = np.float32(1)
    if largest and not _LEAST <= largest <= 1 / _LEAST:  # or its squares would leave float32
        size = np.float32(2.0 ** np.floor(np.log2(largest)))
        difference = difference / size
    least = min(difference.shape)
    if 4 * rank < least or (difference.size > _LARGE and rank + _EXTRA < least):
        random = np.random.default_rng(0)
        start = random.standard_normal((difference.shape[1], rank + _EXTRA), np.float32)
        found = _orthonormal(difference @ start)
        for _ in range(_ITERATIONS):
            found = _orthonormal(difference @ _orthonormal(difference.T @ found))
        u, s, v = np.linalg.svd(found.T @ difference, full_matrices=False)
        u = found @ u
    else:
        u, s, v = np.linalg.svd(difference, full_matrices=False)
    root = np.sqrt(s[:rank]) * np.sqrt(size)
    return u[:, :rank] * root, v[:rank] * root[:, None]


def _orthonormal(vectors: Float32) -> Float32:
    """Columns that span the same; in float32: numpy would take twice the memory and more."""
    found: Float32 = torch.linalg.qr(torch.from_numpy(vectors))[0].numpy()
    return found


def _fitted(difference: Float32, right: Float32) -> Float32:
    """The left factor of least squared error: [rows, rank]."""
    wide = right.astype(np.float64)
    to_left = wide.T @ np.linalg.pinv(wide @ wide.T, hermitian=True)
    found = np.empty((len(difference), len(right)), np.float32)
    for block in row_blocks(*difference.shape):
        found[block] = difference[block].astype(np.float64) @ to_left
    return found


def coded_signs(rest: Float32) -> dict[str, torch.Tensor]:
    """The parts of a residual: [rows, width] as a sign each, times the row's mean magnitude."""
    codes, scale = steps.quantise(rest, 1)
    return {
        "signs": torch.from_numpy(steps.pack(codes, 1)),
        "sign_scale": torch.from_numpy(scale / 2).bfloat16(),
    }
