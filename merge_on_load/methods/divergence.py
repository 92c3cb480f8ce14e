"""The sweeps of Arcee Fusion, compiled. Importing this imports numba."""

from typing import Any

import numpy as np

from merge_on_load.kernels import compiled
from merge_on_load.methods.pruning import count
from merge_on_load.methods.selection import SKIP
from merge_on_load.methods.tiles import (
    LANES,
    TILE,
    add_to_base,
    add_to_lanes,
    read,
    subtract,
    write,
)

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693145751953125)
_LN2_LOW = np.float32(1.42860682030941723212e-6)


def _exp(x: Any) -> Any:
    """e ** x for float32 x, held to [-87, 88], to about two units in the last place, in vectors.

    Cody and Waite's reduction to |r| <= ln(2) / 2, then Taylor's series.
    """
    x = np.float32(-87) if x < np.float32(-87) else x
    x = np.float32(88) if x > np.float32(88) else x
    n = np.float32(np.floor(np.float32(x * _LOG2_E + np.float32(0.5))))
    r = np.float32(np.float32(x - n * _LN2_HIGH) - n * _LN2_LOW)
    p = np.float32(1.0 / 5040)
    p = np.float32(p * r + np.float32(1.0 / 720))
    p = np.float32(p * r + np.float32(1.0 / 120))
    p = np.float32(p * r + np.float32(1.0 / 24))
    p = np.float32(p * r + np.float32(1.0 / 6))
    p = np.float32(p * r + np.float32(0.5))
    p = np.float32(p * r + np.float32(1))
    p = np.float32(p * r + np.float32(1))
    return np.float32(p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32))


def _excess(c: Any) -> Any:
    """e ** c - 1 - c, near zero by its series, as the difference would cancel."""
    p = np.float32(1.0 / 40320)
    p = np.float32(p * c + np.float32(1.0 / 5040))
    p = np.float32(p * c + np.float32(1.0 / 720))
    p = np.float32(p * c + np.float32(1.0 / 120))
    p = np.float32(p * c + np.float32(1.0 / 24))
    p = np.float32(p * c + np.float32(1.0 / 6))
    p = np.float32(p * c + np.float32(0.5))
    series = np.float32(np.float32(p * c) * c)
    far = np.float32(np.float32(exp(c) - np.float32(1)) - c)
    return series if abs(c) < np.float32(0.5) else far


def _weigh(tile: Any, change: Any, top: Any, weighted: Any) -> None:
    """tile = w = e ** (tile - top); change = w * c; weighted = w * (e ** c - 1 - c), c being the
    change.
    """
    for j in range(tile.size):
        tile[j] = exp(np.float32(tile[j] - top))
    for j in range(tile.size):
        weighted[j] = np.float32(tile[j] * excess(change[j]))
    for j in range(tile.size):
        change[j] = np.float32(tile[j] * change[j])


def _row_divergences(sources: Any, width: int, divergences: Any, is_finite: Any) -> None:
    """divergences[r] = the Kullback-Leibler divergence of the softmax of row r of sources[1] from
    that of sources[0], float32.

    With c = b - a, and sums weighted by the softmax of a: log(1 + s) - m, where m is the mean of
    c, x that of e ** c - 1 - c, and s = m + x. That is x - (s - log(1 + s)), in which only small
    numbers are subtracted from each other.
    """
    tile = np.empty(TILE, np.float32)
    change = np.empty(TILE, np.float32)
    weighted = np.empty(TILE, np.float32)
    lanes = np.empty((3, LANES), np.float64)
    for row in range(divergences.size):
        begin, end = row * width, (row + 1) * width
        top = np.float32(-np.inf)
        for at in range(begin, end, TILE):
            size = min(TILE, end - at)
            is_finite[1] &= read(sources[1], at, tile[:size])
            for j in range(size):
                top = tile[j] if tile[j] > top else top
        lanes[:] = 0.0
        for at in range(begin, end, TILE):
            size = min(TILE, end - at)
            read(sources[1], at, tile[:size])
            is_finite[0] &= read(sources[0], at, change[:size])
            subtract(change[:size], tile[:size])
            weigh(tile[:size], change[:size], top, weighted[:size])
            add_to_lanes(tile[:size], lanes[0])
            add_to_lanes(change[:size], lanes[1])
            add_to_lanes(weighted[:size], lanes[2])
        mean = lanes[1].sum() / lanes[0].sum()
        excess_mean = lanes[2].sum() / lanes[0].sum()
        total = mean + excess_mean
        found = excess_mean - (total - np.log1p(total))
        divergences[row] = np.float32(max(found, 0.0))


def _score(
    sources: Any,
    width: int,
    divergences: Any,
    at: int,
    size: int,
    base: Any,
    change: Any,
    score: Any,
) -> None:
    """change = the model's difference from the base; score = its magnitude times
    its row's divergence.
    """
    read(sources[0], at, base[:size])
    read(sources[1], at, change[:size])
    subtract(change[:size], base[:size])
    done = 0
    while done < size:
        row = (at + done) // width
        until = min(size, (row + 1) * width - at)
        divergence = divergences[row]
        for j in range(done, until):
            score[j] = np.float32(abs(change[j]) * divergence)
        done = until


def _count_scores(
    sources: Any, width: int, divergences: Any, element_count: int, prefixes: Any, histograms: Any
) -> None:
    """A `selection.Sweep` over the scores, for several ranks in one row."""
    base = np.empty(TILE, np.float32)
    change = np.empty(TILE, np.float32)
    found = np.empty(TILE, np.float32)
    for at in range(0, element_count, TILE):
        size = min(TILE, element_count - at)
        score(sources, width, divergences, at, size, base, change, found)
        for k in range(prefixes.shape[1]):
            if prefixes[0, k] != SKIP:
                count(found[:size], prefixes[0, k], histograms[0, k])


def _fuse(
    sources: Any, width: int, divergences: Any, threshold: Any, begin: int, end: int, out: Any
) -> None:
    """out = the model where the score is above threshold, else the base."""
    base = np.empty(TILE, np.float32)
    change = np.empty(TILE, np.float32)
    found = np.empty(TILE, np.float32)
    for at in range(begin, end, TILE):
        size = min(TILE, end - at)
        score(sources, width, divergences, at, size, base, change, found)
        for j in range(size):
            change[j] = change[j] if found[j] > threshold else np.float32(0)
        add_to_base(base[:size], change[:size])
        write(change[:size], out, at - begin)


exp = compiled(_exp)
excess = compiled(_excess)
weigh = compiled(_weigh)
row_divergences = compiled(_row_divergences)
score = compiled(_score)
count_scores = compiled(_count_scores)
fuse = compiled(_fuse)
