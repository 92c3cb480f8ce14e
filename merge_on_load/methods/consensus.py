"""Task vectors pruned, elected and summed, compiled. Importing this imports numba."""

from typing import Any

import numpy as np

from merge_on_load.kernels import compiled
from merge_on_load.methods.pruning import apply, count, keep
from merge_on_load.methods.selection import SKIP
from merge_on_load.methods.tiles import (
    LANES,
    TILE,
    add_magnitudes,
    add_scaled,
    add_to_base,
    read,
    subtract,
    write,
)


def _agree(change: Any, weight: Any, votes: Any, total: Any) -> None:
    """total += weight * change, where that has the vote's sign."""
    for j in range(votes.size):
        value = np.float32(weight * change[j])
        agrees = (value > np.float32(0)) == (votes[j] >= np.float32(0))
        total[j] = np.float32(total[j] + (value if agrees else np.float32(0)))


def _divide(change: Any, weight: Any, votes: Any, divisor: Any) -> None:
    """divisor += weight, where `agree` adds something."""
    for j in range(votes.size):
        value = np.float32(weight * change[j])
        agrees = ((value > np.float32(0)) == (votes[j] >= np.float32(0))) & (value != np.float32(0))
        divisor[j] = np.float32(divisor[j] + (weight if agrees else np.float32(0)))


def _settle(
    changes: Any,
    weights: Any,
    votes_of: Any,
    elects: bool,
    normalizes: bool,
    scale: Any,
    work: Any,
    total: Any,
) -> None:
    """total = scale * the weighted sum of changes; where it elects, of those that have the sign
    of the sum of all, weighted by votes_of, and, where it normalizes, divided by the sum of their
    weights.

    changes: float32[models, at least total.size]. work: float32[2, at least total.size].
    """
    size = total.size
    total[:] = np.float32(0)
    if elects:
        votes, divisor = work[0, :size], work[1, :size]
        votes[:] = np.float32(0)  # not a copy of the sum: that would take as long as making it
        for i in range(weights.size):
            add_scaled(votes, changes[i, :size], votes_of[i])
        for i in range(weights.size):
            agree(changes[i, :size], weights[i], votes, total)
        if normalizes:
            divisor[:] = np.float32(0)
            for i in range(weights.size):
                divide(changes[i, :size], weights[i], votes, divisor)
            for j in range(size):
                is_small = abs(divisor[j]) < np.float32(1e-8)
                total[j] = np.float32(total[j] / (np.float32(1) if is_small else divisor[j]))
    else:
        for i in range(weights.size):
            add_scaled(total, changes[i, :size], votes_of[i])
    if scale != np.float32(1):
        for j in range(size):
            total[j] = np.float32(scale * total[j])


def _prune(
    change: Any,
    at: int,
    thresholds: Any,
    quotas: Any,
    mask: Any,
    factor: Any,
    work: Any,
    lanes: Any,
) -> None:
    """Zero what does not stay of one model's tile, and multiply the rest by factor. lanes: where
    they are there, add the magnitudes before and after. work: float32[at least a tile].
    """
    if lanes.size:
        add_magnitudes(change, work, lanes[0])
    if thresholds[0] > 0:
        keep(change, thresholds[0], quotas, 0, True)
    if thresholds[1] < 0x7FFFFFFF:
        keep(change, thresholds[1], quotas, 1, False)
    if mask.size:
        apply(mask, at, factor, change)
    elif factor != np.float32(1):
        for j in range(change.size):
            change[j] = np.float32(change[j] * factor)
    if lanes.size:
        add_magnitudes(change, work, lanes[1])


def _measure(
    sources: Any,
    element_count: int,
    thresholds: Any,
    quotas: Any,
    masks: Any,
    sums: Any,
    is_finite: Any,
) -> None:
    """sums[i] = the sum of model i's magnitudes of differences, and of those that stay."""
    base = np.empty(TILE, np.float32)
    tile = np.empty(TILE, np.float32)
    work = np.empty(TILE, np.float32)
    lanes = np.zeros((sums.shape[0], 2, LANES), np.float64)
    for at in range(0, element_count, TILE):
        size = min(TILE, element_count - at)
        is_finite[0] &= read(sources[0], at, base[:size])
        for i in range(sums.shape[0]):
            change = tile[:size]
            is_finite[i + 1] &= read(sources[i + 1], at, change)
            subtract(change, base[:size])
            prune(change, at, thresholds[i], quotas[i], masks[i], np.float32(1), work, lanes[i])
    for i in range(sums.shape[0]):
        sums[i, 0], sums[i, 1] = lanes[i, 0].sum(), lanes[i, 1].sum()


def _merge(
    sources: Any,
    thresholds: Any,
    quotas: Any,
    masks: Any,
    factors: Any,
    weights: Any,
    elects: bool,
    normalizes: bool,
    scale: Any,
    begin: int,
    end: int,
    out: Any,
    is_finite: Any,
) -> None:
    """out = base + what `settle` makes of the models' differences from it, pruned.

    sources: base and models. thresholds, quotas: [models, 2], as `selection.select` finds them;
    kept are the first, less the second. quotas are counted down: blocks must come in order. masks:
    uint8[models, bytes], of none where nothing else is pruned. begin: a multiple of MASK_GROUP.
    """
    models = weights.size
    base = np.empty(TILE, np.float32)
    changes = np.empty((models, TILE), np.float32)
    work = np.empty((2, TILE), np.float32)
    total = np.empty(TILE, np.float32)
    no_lanes = np.empty((0, LANES), np.float64)
    for at in range(begin, end, TILE):
        size = min(TILE, end - at)
        is_finite[0] &= read(sources[0], at, base[:size])
        for i in range(models):
            change = changes[i, :size]
            is_finite[i + 1] &= read(sources[i + 1], at, change)
            subtract(change, base[:size])
            prune(change, at, thresholds[i], quotas[i], masks[i], factors[i], total, no_lanes)
        settle(changes, weights, weights, elects, normalizes, scale, work, total[:size])
        add_to_base(base[:size], total[:size])
        write(total[:size], out, at - begin)


def _count_changes(
    sources: Any, element_count: int, prefixes: Any, histograms: Any, is_finite: Any
) -> None:
    """A `selection.Sweep` over the magnitudes of models[i] - base."""
    base = np.empty(TILE, np.float32)
    tile = np.empty(TILE, np.float32)
    for at in range(0, element_count, TILE):
        size = min(TILE, element_count - at)
        is_finite[0] &= read(sources[0], at, base[:size])
        for i in range(prefixes.shape[0]):
            is_finite[i + 1] &= read(sources[i + 1], at, tile[:size])
            subtract(tile[:size], base[:size])
            for k in range(prefixes.shape[1]):
                if prefixes[i, k] != SKIP:
                    count(tile[:size], prefixes[i, k], histograms[i, k])


agree = compiled(_agree)
divide = compiled(_divide)
settle = compiled(_settle)
prune = compiled(_prune)
measure = compiled(_measure)
merge = compiled(_merge)
count_changes = compiled(_count_changes)
