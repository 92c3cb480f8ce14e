"""The ranks of a row's magnitudes, by radix sort, and what DELLA makes of them. Compiled.

Importing this imports numba.
"""

from typing import Any

import numpy as np

from merge_on_load.kernels import compiled
from merge_on_load.methods.pruning import draw, uniform
from merge_on_load.methods.tiles import bits_of, read, subtract

_PASSES = 3


def _sort(row: Any, first: Any, second: Any, histograms: Any) -> Any:
    """Fill `first` with the row's places, in the order of their magnitudes: in its lower halves.

    first, second: uint64[at least row.size], of which the one that holds the result is returned.
    histograms: int64[_PASSES, 1 << 11]. Stable: ties keep the row's order.
    """
    least, greatest = np.int32(0x7FFFFFFF), np.int32(0)
    for j in range(row.size):
        bits = bits_of(row[j])
        least = min(least, bits)
        greatest = max(greatest, bits)
    digit = 1
    while (np.int64(greatest) - np.int64(least)) >> np.int64(_PASSES * digit):
        digit += 1
    mask = np.uint64((1 << digit) - 1)
    histograms[:, : 1 << digit] = 0
    for j in range(row.size):
        key = np.uint64(np.int64(bits_of(row[j])) - np.int64(least))
        first[j] = np.uint64(key << np.uint64(32)) | np.uint64(j)
        for p in range(_PASSES):
            histograms[p, (key >> np.uint64(p * digit)) & mask] += 1
    for p in range(_PASSES):
        place = 0
        for k in range(1 << digit):
            place, histograms[p, k] = place + histograms[p, k], place
    for p in range(_PASSES):
        shift = np.uint64(32 + p * digit)
        for j in range(row.size):
            k = (first[j] >> shift) & mask
            second[histograms[p, k]] = first[j]
            histograms[p, k] += 1
        first, second = second, first
    return first


def _draw_all(
    sources: Any,
    width: int,
    rows: int,
    keys: Any,
    low: Any,
    step: Any,
    mask: Any,
    is_finite: Any,
) -> None:
    """One model's mask: in each row the difference of rank r stays with probability
    low + r * step.

    sources: the base and the model. keys: uint32[ROUNDS, 2].
    """
    base = np.empty(width, np.float32)
    row = np.empty(width, np.float32)
    bounds = np.empty(width, np.float32)
    numbers = np.empty(width + 8, np.float32)
    state = np.empty((4, width // 4 + 2), np.uint32)
    places = np.empty((2, width), np.uint64)
    histograms = np.empty((_PASSES, 1 << 11), np.int64)
    for at in range(0, rows * width, width):
        is_finite[0] &= read(sources[0], at, base)
        is_finite[1] &= read(sources[1], at, row)
        subtract(row, base)
        order = sort(row, places[0], places[1], histograms)
        drawn = numbers[uniform(keys, at, width, state, numbers) :]
        for r in range(width):
            j = np.int64(order[r] & np.uint64(0xFFFFFFFF))
            bounds[j] = np.float32(np.float32(np.float32(r) * step) + low)
        draw(drawn[:width], bounds, mask, at)


sort = compiled(_sort)
draw_all = compiled(_draw_all)
