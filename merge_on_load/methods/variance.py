"""The sweeps of SCE, compiled. Importing this imports numba."""

from typing import Any

import numpy as np

from merge_on_load.kernels import compiled
from merge_on_load.methods.consensus import settle
from merge_on_load.methods.pruning import count, least_bits
from merge_on_load.methods.tiles import (
    LANES,
    TILE,
    add_dot,
    add_to_base,
    bits_of,
    read,
    subtract,
    write,
)


def _read_all(sources: Any, at: int, base: Any, changes: Any, is_finite: Any) -> None:
    """changes[i] = models[i] - base, base.size elements of each."""
    is_finite[0] &= read(sources[0], at, base)
    for i in range(changes.shape[0]):
        change = changes[i, : base.size]
        is_finite[i + 1] &= read(sources[i + 1], at, change)
        subtract(change, base)


def _vary(changes: Any, variance: Any, mean: Any) -> None:
    """variance = that of the changes, over models. mean: for its own use."""
    part = np.float32(1.0 / changes.shape[0])
    size = variance.size
    mean[:] = np.float32(0)
    variance[:] = np.float32(0)
    for i in range(changes.shape[0]):
        change = changes[i]
        for j in range(size):
            mean[j] = np.float32(mean[j] + change[j] * part)
    for i in range(changes.shape[0]):
        change = changes[i]
        for j in range(size):
            off = np.float32(change[j] - mean[j])
            variance[j] = np.float32(variance[j] + off * off)


def _count_variances(
    sources: Any, element_count: int, prefixes: Any, histograms: Any, is_finite: Any
) -> None:
    """A `selection.Sweep` over the variances."""
    base = np.empty(TILE, np.float32)
    work = np.empty((2, TILE), np.float32)
    changes = np.empty((sources.shape[0] - 1, TILE), np.float32)
    for at in range(0, element_count, TILE):
        size = min(TILE, element_count - at)
        read_all(sources, at, base[:size], changes, is_finite)
        vary(changes, work[0, :size], work[1, :size])
        count(work[0, :size], prefixes[0, 0], histograms[0, 0])


def _select(changes: Any, threshold: Any, quotas: Any, work: Any, size: int) -> None:
    """Zero the changes where the variance is not among the largest, as `pruning.keep` does."""
    variance = work[0, :size]
    vary(changes, variance, work[1, :size])
    least = least_bits(variance, threshold, quotas, 0)
    if least >= 0:
        bound = np.int32(min(least, 0x7FFFFFFF))
        for i in range(changes.shape[0]):
            change = changes[i]
            for j in range(size):
                is_kept = bits_of(variance[j]) >= bound
                change[j] = change[j] if is_kept else np.float32(0)
        return
    for j in range(size):
        bits = bits_of(variance[j])
        is_tied = bits == threshold and quotas[0] > 0
        quotas[0] -= np.int64(is_tied)
        if bits < threshold or (bits == threshold and not is_tied):
            changes[:, j] = np.float32(0)


def _add_squares(
    sources: Any, element_count: int, threshold: Any, quotas: Any, squares: Any, is_finite: Any
) -> None:
    """squares[i] += the sum of models[i]'s squared changes, of those selected: float64."""
    models = squares.size
    base = np.empty(TILE, np.float32)
    work = np.empty((2, TILE), np.float32)
    changes = np.empty((models, TILE), np.float32)
    lanes = np.zeros((models, LANES), np.float64)
    for at in range(0, element_count, TILE):
        size = min(TILE, element_count - at)
        read_all(sources, at, base[:size], changes, is_finite)
        if threshold > 0:
            select(changes, threshold, quotas, work, size)
        for i in range(models):
            add_dot(changes[i, :size], changes[i, :size], lanes[i])
    for i in range(models):
        squares[i] += lanes[i].sum()


def _merge(
    sources: Any,
    threshold: Any,
    quotas: Any,
    weights: Any,
    begin: int,
    end: int,
    out: Any,
    is_finite: Any,
) -> None:
    """out = base + what `settle` makes of the selected changes. quotas: counted down, so that
    blocks must come in order.
    """
    base = np.empty(TILE, np.float32)
    work = np.empty((2, TILE), np.float32)
    changes = np.empty((weights.size, TILE), np.float32)
    total = np.empty(TILE, np.float32)
    votes = np.ones(weights.size, np.float32)
    for at in range(begin, end, TILE):
        size = min(TILE, end - at)
        read_all(sources, at, base[:size], changes, is_finite)
        if threshold > 0:
            select(changes, threshold, quotas, work, size)
        settle(changes, weights, votes, True, True, np.float32(1), work, total[:size])
        add_to_base(base[:size], total[:size])
        write(total[:size], out, at - begin)


read_all = compiled(_read_all)
vary = compiled(_vary)
select = compiled(_select)
count_variances = compiled(_count_variances)
add_squares = compiled(_add_squares)
merge = compiled(_merge)
