"""The k-th largest of a tensor's numbers, exactly, in two sweeps and without a sort.

A non-negative float32's bits, read as an integer, are ordered as the numbers are. The first sweep
counts the numbers by their upper 15 bits (the sign is none), the second counts, by the other 16,
those that share the upper bits of the k-th largest.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

UPPER, SKIP = -1, -2  # in place of a prefix: count the upper bits; count nothing
_NONE = 0x7FFFFFFF  # greater than any number's bits

# Counts into histograms[i, k] what `pruning.count` says of prefixes[i, k], for all i and k.
Sweep = Callable[[Ints, Ints], None]


def count_upper(several: int, sweep: Sweep) -> Ints:
    """The first sweep's histograms, [several, 1, bins]."""
    upper = np.zeros((several, 1, 1 << 15), np.int64)
    sweep(np.full((several, 1), UPPER, np.int64), upper)
    return upper


def select(
    ranks: Ints, element_count: int, sweep: Sweep, upper: Ints | None = None
) -> tuple[Ints, Ints]:
    """Thresholds and quotas, both of the shape of ranks, [several, several]: the ranks[i, k]
    largest of numbers i are those whose bits are above thresholds[i, k], and quotas[i, k] of those
    at it. Ranks beyond [0, element_count] mean none and all. upper: what `count_upper` found.
    """
    is_open = (ranks > 0) & (ranks < element_count)
    thresholds = np.where(ranks <= 0, _NONE, 0)
    quotas = np.where(ranks <= 0, 0, np.iinfo(np.int64).max)
    if not is_open.any():
        return thresholds, quotas
    upper = count_upper(len(ranks), sweep) if upper is None else upper
    prefixes = np.full(ranks.shape, SKIP, np.int64)
    left = np.zeros(ranks.shape, np.int64)
    for place in zip(*np.nonzero(is_open), strict=True):
        prefixes[place], left[place] = _find(upper[place[0], 0], int(ranks[place]))
    lower = np.zeros((*ranks.shape, 1 << 16), np.int64)
    sweep(prefixes, lower)
    for place in zip(*np.nonzero(is_open), strict=True):
        low, quotas[place] = _find(lower[place], int(left[place]))
        thresholds[place] = prefixes[place] << 16 | low
    return thresholds, quotas


def _find(histogram: Ints, rank: int) -> tuple[int, int]:
    """The bin of the rank-th from the top, counted from 1, and how many of that bin are wanted."""
    above = np.cumsum(histogram[::-1])
    place = int(np.searchsorted(above, rank))
    return len(histogram) - 1 - place, rank - (int(above[place - 1]) if place else 0)
