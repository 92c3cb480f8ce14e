"""Tiles: the short stretches of a tensor that kernels work on, as float32. Compiled.

Kernels are given addresses and kinds of words instead of arrays (`blocks.addresses`), and look at
the kind once per tile: so each is compiled once, whatever dtypes its inputs and its result have.

Importing this imports numba.
"""

# As in `merge_on_load.kernels`, loops are written so that LLVM turns them into vector instructions.
# An index that is a sum would be checked for being negative, which is why they take slices. Sums
# over a whole tensor have _LANES float64 lanes, because LLVM may not reorder a sum by itself:
# one order on every machine, and one result.

from typing import Any

import numpy as np
from numba import carray
from numba.core import types
from numba.extending import intrinsic

from merge_on_load.kernels import compiled, load, store
from merge_on_load.methods.blocks import BFLOAT16, FLOAT16

TILE = 2048  # 8 KiB of float32: several stay in the innermost cache
LANES = 64

__all__ = [
    "LANES",
    "TILE",
    "add_dot",
    "add_magnitudes",
    "add_scaled",
    "add_to_base",
    "add_to_lanes",
    "bits_of",
    "read",
    "subtract",
    "write",
]


def _pointer_to(dtype: Any) -> Any:
    """address -> pointer, for `carray`."""

    def typed(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(dtype)(address), generate

    return intrinsic(typed)


_uint16_at = _pointer_to(types.uint16)
_int16_at = _pointer_to(types.int16)
_float32_at = _pointer_to(types.float32)


def _fill(words: Any, tile: Any) -> Any:
    """tile = words. Returns whether all are finite."""
    greatest = np.uint32(0)
    for j in range(tile.size):
        value = np.float32(load(words, j))
        tile[j] = value
        bits = np.uint32(value.view(np.uint32) & np.uint32(0x7FFFFFFF))
        greatest = bits if bits > greatest else greatest
    return greatest < np.uint32(0x7F800000)


fill = compiled(_fill)


def _read(source: Any, begin: int, tile: Any) -> Any:
    """tile = the source's elements from begin on. Returns whether all are finite."""
    end = begin + tile.size
    if source[1] == BFLOAT16:
        return fill(carray(_uint16_at(source[0]), end)[begin:], tile)
    if source[1] == FLOAT16:
        return fill(carray(_int16_at(source[0]), end)[begin:], tile)
    return fill(carray(_float32_at(source[0]), end)[begin:], tile)


def _drain(tile: Any, words: Any) -> None:
    for j in range(tile.size):
        store(words, j, tile[j])


drain = compiled(_drain)


def _write(tile: Any, out: Any, begin: int) -> None:
    """out's elements from begin on = tile, each rounded once."""
    end = begin + tile.size
    if out[1] == BFLOAT16:
        drain(tile, carray(_uint16_at(out[0]), end)[begin:])
    elif out[1] == FLOAT16:
        drain(tile, carray(_int16_at(out[0]), end)[begin:])
    else:
        drain(tile, carray(_float32_at(out[0]), end)[begin:])


def _subtract(tile: Any, base: Any) -> None:
    """tile -= base."""
    for j in range(tile.size):
        tile[j] = np.float32(tile[j] - base[j])


def _add_scaled(total: Any, tile: Any, factor: Any) -> None:
    """total += factor * tile, rounded twice."""
    for j in range(tile.size):
        total[j] = np.float32(total[j] + np.float32(factor * tile[j]))


def _add_to_base(base: Any, change: Any) -> None:
    """change = base + change; where change is zero, base with its sign, as -0.0 + 0.0 is 0.0."""
    for j in range(base.size):
        value = np.float32(base[j] + change[j])
        change[j] = base[j] if change[j] == np.float32(0) else value


def _add_dot(first: Any, second: Any, lanes: Any) -> None:
    """lanes += products; element j in lane j % LANES."""
    rows = first.size // LANES
    whole = rows * LANES
    lines, others = first[:whole].reshape(rows, LANES), second[:whole].reshape(rows, LANES)
    for row in range(rows):
        for j in range(LANES):
            lanes[j] += np.float64(lines[row, j]) * np.float64(others[row, j])
    for j in range(whole, first.size):
        lanes[j - whole] += np.float64(first[j]) * np.float64(second[j])


def _add_to_lanes(tile: Any, lanes: Any) -> None:
    """lanes += tile; element j in lane j % LANES."""
    rows = tile.size // LANES
    whole = rows * LANES
    lines = tile[:whole].reshape(rows, LANES)
    for row in range(rows):
        for j in range(LANES):
            lanes[j] += np.float64(lines[row, j])
    for j in range(whole, tile.size):
        lanes[j - whole] += np.float64(tile[j])


def _add_magnitudes(tile: Any, work: Any, lanes: Any) -> None:
    """lanes += magnitudes. A tile's are summed in float32, halves upon each other, which is fast
    and exact enough. work: float32[at least half of the tile, rounded up].
    """
    half = (tile.size + 1) // 2
    first, second, sums = tile[:half], tile[half:], work[:half]
    for j in range(half):
        sums[j] = abs(first[j])
    for j in range(second.size):
        sums[j] = np.float32(sums[j] + abs(second[j]))
    while half > LANES:
        size, half = half, (half + 1) // 2
        low, high = work[:half], work[half:size]
        for j in range(high.size):
            low[j] = np.float32(low[j] + high[j])
    for j in range(half):
        lanes[j] += np.float64(work[j])


def _bits_of(value: Any) -> Any:
    """The magnitude's bits: ordered as the magnitudes are."""
    return np.int32(np.float32(value).view(np.int32) & np.int32(0x7FFFFFFF))


read = compiled(_read)
write = compiled(_write)
subtract = compiled(_subtract)
add_scaled = compiled(_add_scaled)
add_to_base = compiled(_add_to_base)
add_dot = compiled(_add_dot)
add_to_lanes = compiled(_add_to_lanes)
add_magnitudes = compiled(_add_magnitudes)
bits_of = compiled(_bits_of)
