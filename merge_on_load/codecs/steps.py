"""Values of few bits: quantised to steps around zero, packed, and back.

A code c of b bits stands for (c - (2**b - 1) / 2) * scale: as many steps above zero as below, none
at it. At one bit that is a sign, at two bits the four levels of -1.5, -0.5, 0.5, 1.5 times the
scale.

32 values are one word of 4b bytes. At four bits value i is the low half of byte i and value i + 16
its high half; at two bits the values i, i + 8, i + 16 and i + 24 share byte i; at one bit value j
is bit j % 8 of byte j // 8; at three bits the lower two are laid out as two, then the third as one.
So a whole word is unpacked by shifts and masks of many bytes at once.
"""

import numpy as np
import numpy.typing as npt

from merge_on_load.errors import UnknownCodec
from merge_on_load.floats import Float32
from merge_on_load.specs import Bytes

LANES = 32  # values of one word
BITS = (1, 2, 3, 4, 8)
# Shares of the largest magnitude that the outermost step may stand for: what is beyond is cut off.
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)

Codes = npt.NDArray[np.uint8]


def check_group_size(group_size: int, codec: str) -> int:
    """The same. Raises UnknownCodec unless groups are whole words."""
    if group_size % LANES:
        raise UnknownCodec(
            f"group_size must be a multiple of {LANES} for {codec}", found=group_size
        )
    return group_size


def word_count(width: int) -> int:
    """Words that a row of so many values takes."""
    return -(-width // LANES)


def packed_bytes(width: int, bits: int) -> int:
    """Bytes that a row of so many values takes."""
    return word_count(width) * bits * LANES // 8


def quantise(groups: Float32, bits: int) -> tuple[Codes, Float32]:
    """groups: [..., size], finite. Codes of the same shape, and a scale of each group [...].

    The scale is the one of least squared error among some shares of the group's largest magnitude;
    at one bit the mean magnitude, which is the best there is.
    """
    if bits == 1:
        scale = 2 * np.abs(groups).mean(axis=-1, dtype=np.float64).astype(np.float32)
        return (groups >= 0).astype(np.uint8), rounded(scale)
    largest = np.abs(groups).max(axis=-1, initial=0)
    middle = np.float32((2**bits - 1) / 2)
    best_error = np.full(largest.shape, np.inf)
    codes = np.zeros(groups.shape, np.uint8)
    scale = np.zeros(largest.shape, np.float32)
    for share in _SHARES:
        tried = rounded(largest * np.float32(share / middle))
        found = nearest_codes(groups, tried, bits)
        error = np.square(dequantise(found, tried, bits) - groups, dtype=np.float64).sum(axis=-1)
        is_better = error < best_error
        best_error = np.where(is_better, error, best_error)
        scale = np.where(is_better, tried, scale)
        codes = np.where(is_better[..., None], found, codes)
    return codes, scale


def quantise_rows(rows: Float32, group_size: int, bits: int) -> tuple[Codes, Float32]:
    """rows: [n, width]. Codes [n, width]; scales [n, ceil(width / group_size)], the last group's
    being its own where it is short.
    """
    count, width = rows.shape
    whole = width - width % group_size
    groups = rows[:, :whole].reshape(count, whole // group_size, group_size)
    codes, scale = quantise(groups, bits)
    codes = codes.reshape(count, whole)
    if whole < width:
        rest_codes, rest_scale = quantise(rows[:, whole:], bits)
        codes = np.concatenate([codes, rest_codes], axis=1)
        scale = np.concatenate([scale, rest_scale[:, None]], axis=1)
    return codes, scale


def dequantise_rows(codes: Codes, scale: Float32, group_size: int, bits: int) -> Float32:
    """What `quantise_rows` gave stands for: [n, width]."""
    each = np.repeat(scale, group_size, axis=1)[:, : codes.shape[1]]
    return dequantise(codes[..., None], each, bits)[..., 0]


def dequantise(codes: Codes, scale: Float32, bits: int) -> Float32:
    """What the codes stand for: the product is one float32 operation, as in the kernels."""
    middle = np.float32((2**bits - 1) / 2)
    values: Float32 = (codes.astype(np.float32) - middle) * scale[..., None]
    return values


def rounded(scale: Float32) -> Float32:
    """To bfloat16, which is how scales are stored, and back."""
    bits = scale.astype(np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    return ((bits + 0x7FFF + odd) & np.uint32(0xFFFF0000)).view(np.float32)


def pack(codes: Codes, bits: int) -> Bytes:
    """codes: [rows, width] -> uint8[rows, packed_bytes(width)]; what fills the last word is 0."""
    rows, width = codes.shape
    padded = np.zeros((rows, word_count(width) * LANES), np.uint8)
    padded[:, :width] = codes
    packed = _pack_words(padded.reshape(rows, word_count(width), LANES), bits)
    return packed.reshape(rows, packed_bytes(width, bits))


def _pack_words(words: Codes, bits: int) -> Bytes:
    """[rows, words, LANES] -> [rows, words, 4 * bits]."""
    if bits == 1:
        return np.packbits(words, axis=-1, bitorder="little")
    if bits == 3:
        return np.concatenate(
            [_pack_words(words & np.uint8(3), 2), _pack_words(words >> np.uint8(2), 1)], axis=-1
        )
    parts = words.reshape(*words.shape[:2], 8 // bits, 4 * bits)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(parts << shifts, axis=2)
    return packed


def unpack(packed: Bytes, width: int, bits: int) -> Codes:
    """uint8[rows, packed_bytes(width)] -> codes [rows, width]."""
    rows = packed.shape[0]
    words = _unpack_words(packed.reshape(rows, word_count(width), 4 * bits), bits)
    return words.reshape(rows, word_count(width) * LANES)[:, :width]


def _unpack_words(packed: Bytes, bits: int) -> Codes:
    """[rows, words, 4 * bits] -> [rows, words, LANES]."""
    if bits == 1:
        return np.unpackbits(packed, axis=-1, bitorder="little")
    if bits == 3:
        third: Codes = _unpack_words(packed[..., 8:], 1) << np.uint8(2)
        return _unpack_words(packed[..., :8], 2) | third
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    codes: Codes = (packed[:, :, None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:2], LANES)


def nearest_codes(groups: Float32, scale: Float32, bits: int) -> Codes:
    """Codes of the nearest steps, [..., size], for a scale of each group [...]."""
    whole = np.where(scale > 0, scale, np.float32(1))[..., None]
    nearest = np.floor(groups / whole) + 2 ** (bits - 1)
    found: Codes = np.clip(nearest, 0, 2**bits - 1).astype(np.uint8)
    return found
