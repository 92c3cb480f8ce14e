"""Nearswap, RAM and the fusing step of Arcee Fusion, compiled. Importing this imports numba."""

from typing import Any

import numpy as np

from merge_on_load.kernels import compiled
from merge_on_load.methods.tiles import TILE, add_to_base, read, subtract, write


def _nearswap(sources: Any, t: Any, begin: int, end: int, out: Any, is_finite: Any) -> None:
    """out = base + the model's difference from it, cut to [-t, t]."""
    base = np.empty(TILE, np.float32)
    change = np.empty(TILE, np.float32)
    for at in range(begin, end, TILE):
        size = min(TILE, end - at)
        is_finite[0] &= read(sources[0], at, base[:size])
        is_finite[1] &= read(sources[1], at, change[:size])
        subtract(change[:size], base[:size])
        for j in range(size):
            value = change[j]
            value = t if value > t else value
            change[j] = -t if value < -t else value
        add_to_base(base[:size], change[:size])
        write(change[:size], out, at - begin)


def _read_changes(
    sources: Any, at: int, epsilon: Any, base: Any, changes: Any, counts: Any, is_finite: Any
) -> None:
    """changes[i] = models[i] - base, zero where its magnitude is no more than epsilon; counts:
    how many are more.
    """
    is_finite[0] &= read(sources[0], at, base)
    counts[:] = np.int32(0)
    for i in range(changes.shape[0]):
        change = changes[i, : base.size]
        is_finite[i + 1] &= read(sources[i + 1], at, change)
        subtract(change, base)
        for j in range(base.size):
            is_active = abs(change[j]) > epsilon
            counts[j] += np.int32(is_active)
            change[j] = change[j] if is_active else np.float32(0)


def _count_overlaps(
    sources: Any, element_count: int, epsilon: Any, unique: Any, shared: Any, is_finite: Any
) -> None:
    """unique[i], shared[i]: the elements that model i alone, or with others, changes."""
    base = np.empty(TILE, np.float32)
    changes = np.empty((unique.size, TILE), np.float32)
    counts = np.empty(TILE, np.int32)
    for at in range(0, element_count, TILE):
        size = min(TILE, element_count - at)
        read_changes(sources, at, epsilon, base[:size], changes, counts[:size], is_finite)
        for i in range(unique.size):
            alone, together = np.int64(0), np.int64(0)
            for j in range(size):
                is_active = changes[i, j] != np.float32(0)
                alone += np.int64(is_active & (counts[j] == 1))
                together += np.int64(is_active & (counts[j] > 1))
            unique[i] += alone
            shared[i] += together


def _ram(
    sources: Any,
    epsilon: Any,
    factors: Any,
    begin: int,
    end: int,
    out: Any,
    is_finite: Any,
) -> None:
    """out = base + factors[i] * the change where model i's is the only one; where there are
    several, their mean.
    """
    base = np.empty(TILE, np.float32)
    changes = np.empty((factors.size, TILE), np.float32)
    counts = np.empty(TILE, np.int32)
    total = np.empty(TILE, np.float32)
    for at in range(begin, end, TILE):
        size = min(TILE, end - at)
        read_changes(sources, at, epsilon, base[:size], changes, counts[:size], is_finite)
        total[:size] = np.float32(0)
        for i in range(factors.size):
            change = changes[i]
            for j in range(size):
                factor = factors[i] if counts[j] == 1 else np.float32(1)
                total[j] = np.float32(total[j] + factor * change[j])
        for j in range(size):
            total[j] = np.float32(total[j] / np.float32(max(counts[j], np.int32(1))))
        add_to_base(base[:size], total[:size])
        write(total[:size], out, at - begin)


nearswap = compiled(_nearswap)
read_changes = compiled(_read_changes)
count_overlaps = compiled(_count_overlaps)
ram = compiled(_ram)
