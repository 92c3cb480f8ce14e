"""Which elements of a tile stay, compiled: the largest, or some at random.

Importing this imports numba.
"""

from typing import Any

import numpy as np

from merge_on_load.kernels import compiled
from merge_on_load.methods.blocks import MASK_GROUP
from merge_on_load.methods.random_numbers import MULTIPLIERS, ROUNDS, STRETCH
from merge_on_load.methods.selection import UPPER
from merge_on_load.methods.tiles import bits_of

_GROUP, _BYTES = MASK_GROUP, MASK_GROUP // 8
_FIRST, _SECOND = (np.uint64(multiplier) for multiplier in MULTIPLIERS)


def _philox(keys: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    """Counters -> random words, in place. keys: uint32[ROUNDS, 2]. a to d: uint32, of one size."""
    for r in range(ROUNDS):  # outside, so that the inner loop is short enough to become vectors
        key, other = keys[r, 0], keys[r, 1]
        for i in range(a.size):
            even, odd = _FIRST * np.uint64(a[i]), _SECOND * np.uint64(c[i])
            a[i] = np.uint32(np.uint32(odd >> np.uint64(32)) ^ b[i] ^ key)
            c[i] = np.uint32(np.uint32(even >> np.uint64(32)) ^ d[i] ^ other)
            b[i], d[i] = np.uint32(odd), np.uint32(even)


philox = compiled(_philox)


def _uniform(keys: Any, begin: int, count: int, state: Any, numbers: Any) -> Any:
    """Fills float32 `numbers`, which holds at least count + 6. Returns where element begin's is;
    those of the elements after it follow. keys: uint32[ROUNDS, 2]. state: uint32[4, at least a
    quarter of the numbers], for its own use.
    """
    first = begin // 4
    groups = (begin + count + 3) // 4 - first
    a, b, c, d = state[0, :groups], state[1, :groups], state[2, :groups], state[3, :groups]
    for i in range(groups):
        a[i], b[i] = np.uint32(first + i), np.uint32((first + i) >> 32)
        c[i], d[i] = np.uint32(0), np.uint32(0)
    philox(keys, a, b, c, d)
    words = numbers[: 4 * groups].reshape(groups, 4)
    for i in range(groups):
        words[i, 0] = np.float32(np.int32(a[i] >> np.uint32(8))) * np.float32(2.0**-24)
        words[i, 1] = np.float32(np.int32(b[i] >> np.uint32(8))) * np.float32(2.0**-24)
        words[i, 2] = np.float32(np.int32(c[i] >> np.uint32(8))) * np.float32(2.0**-24)
        words[i, 3] = np.float32(np.int32(d[i] >> np.uint32(8))) * np.float32(2.0**-24)
    return begin - 4 * first


# A mask has a bit for each element. In a group of _GROUP of them, element e's is bit e // _BYTES of
# byte e % _BYTES, so that bytes are made and read side by side.


def _draw(numbers: Any, bounds: Any, mask: Any, at: int) -> None:
    """Set the bits, from element `at` on, of those whose number is below their bound. They were 0.

    numbers, bounds: of one size.
    """
    begin = 0
    while begin < numbers.size:
        e = at + begin
        end = min(numbers.size, begin + _BYTES - e % _BYTES)
        first = e // _GROUP * _BYTES + e % _BYTES
        line = mask[first : first + end - begin]
        bit = np.uint8(1 << (e % _GROUP // _BYTES))
        part, limits = numbers[begin:end], bounds[begin:end]
        for j in range(line.size):
            line[j] |= bit if part[j] < limits[j] else np.uint8(0)
        begin = end


def _draw_evenly(keys: Any, n: int, bits: int, mask: Any) -> None:
    """Set each bit with probability n / 2**bits: `random_numbers.plain_chances`.

    keys: uint32[ROUNDS, 2]. bits: at least 1. mask: whole groups.
    """
    state = np.empty((4, STRETCH), np.uint32)
    drawn = np.empty((4, STRETCH), np.uint32)
    packed = drawn.reshape(drawn.size).view(np.uint8)
    for begin in range(0, mask.size, packed.size):
        first = begin // packed.size * STRETCH
        drawn[:] = np.uint32(0)
        for p in range(bits):
            for i in range(STRETCH):
                state[0, i], state[1, i] = np.uint32(first + i), np.uint32((first + i) >> 32)
                state[2, i], state[3, i] = np.uint32(p), np.uint32(0)
            philox(keys, state[0], state[1], state[2], state[3])
            is_set = (n >> p) & 1 == 1
            for word in range(4):
                for i in range(STRETCH):
                    found, new = drawn[word, i], state[word, i]
                    drawn[word, i] = found | new if is_set else found & new
        size = min(packed.size, mask.size - begin)
        mask[begin : begin + size] = packed[:size]


def _apply(mask: Any, at: int, factor: Any, tile: Any) -> None:
    """Zero the elements, from `at` on, a group's first, whose bits are not set. Multiply the rest
    by factor.
    """
    for begin in range(0, tile.size, _BYTES):
        e = at + begin
        line = mask[e // _GROUP * _BYTES : e // _GROUP * _BYTES + _BYTES]
        bit = np.uint8(1 << (e % _GROUP // _BYTES))
        part = tile[begin : begin + _BYTES]
        for j in range(part.size):
            value = np.float32(part[j] * factor)
            part[j] = value if line[j] & bit else np.float32(0)


def _least_bits(tile: Any, threshold: Any, quotas: Any, k: int) -> Any:
    """What an element's bits must be at least for it to be among the largest; -1 where of those
    at the threshold the tile's first are and the rest are not.

    Takes those at the threshold, if it can take all, out of quotas[k].
    """
    tied, limit = np.int32(0), np.int32(threshold)
    for j in range(tile.size):
        tied += np.int32(bits_of(tile[j]) == limit)
    if tied <= quotas[k]:
        quotas[k] -= tied
        return np.int64(threshold)
    return np.int64(threshold) + 1 if quotas[k] == 0 else np.int64(-1)


def _keep(tile: Any, threshold: Any, quotas: Any, k: int, is_largest: bool) -> None:
    """Zero all elements but the largest, or the largest: those whose bits are above the threshold,
    and the first quotas[k] of those at it, in the tensor's order. Counts quotas[k] down.
    """
    least = least_bits(tile, threshold, quotas, k)
    if least >= 0:
        bound = np.int32(min(least, 0x7FFFFFFF))
        for j in range(tile.size):
            is_kept = (bits_of(tile[j]) >= bound) == is_largest
            tile[j] = tile[j] if is_kept else np.float32(0)
        return
    for j in range(tile.size):
        bits = bits_of(tile[j])
        is_tied = bits == threshold and quotas[k] > 0
        quotas[k] -= np.int64(is_tied)
        if (bits > threshold or is_tied) != is_largest:
            tile[j] = np.float32(0)


def _count(tile: Any, prefix: int, histogram: Any) -> None:
    """Count bits: the upper 15 where prefix is UPPER, else the lower 16 of those with these upper
    bits.
    """
    if prefix == UPPER:
        for j in range(tile.size):
            histogram[bits_of(tile[j]) >> np.int32(16)] += 1
    else:
        for j in range(tile.size):
            bits = bits_of(tile[j])
            if bits >> np.int32(16) == prefix:
                histogram[bits & np.int32(0xFFFF)] += 1


uniform = compiled(_uniform)
draw = compiled(_draw)
draw_evenly = compiled(_draw_evenly)
apply = compiled(_apply)
least_bits = compiled(_least_bits)
keep = compiled(_keep)
count = compiled(_count)
