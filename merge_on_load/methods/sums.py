"""Weighted sums of tensors and their scalar products, compiled.

Where a method is a weighted sum whose weights depend on angles and norms, `gram` is the first
sweep and `weigh` the second. Importing this imports numba.
"""

from typing import Any

import numpy as np

from merge_on_load.kernels import compiled
from merge_on_load.methods.tiles import (
    LANES,
    TILE,
    add_dot,
    add_scaled,
    add_to_base,
    read,
    subtract,
    write,
)


def _weigh(
    sources: Any,
    has_base: bool,
    weights: Any,
    width: int,
    scale: Any,
    begin: int,
    end: int,
    out: Any,
    is_finite: Any,
) -> None:
    """out = scale * sum of weights[r, i] * models[i], r being the row; with a base, sources[0],
    base + scale * sum of weights[r, i] * (models[i] - base).

    weights: float32[rows of the block, models]. begin: a row's first element, or anywhere in the
    only row.
    """
    base = np.zeros(TILE, np.float32)
    tile = np.empty(TILE, np.float32)
    total = np.empty(TILE, np.float32)
    first = 1 if has_base else 0
    at = begin
    while at < end:
        row = at // width - begin // width
        count = min(TILE, end - at, (at // width + 1) * width - at)
        if has_base:
            is_finite[0] &= read(sources[0], at, base[:count])
        total[:count] = np.float32(-0.0)  # -0.0 + x is x for every x
        for i in range(first, sources.shape[0]):
            is_finite[i] &= read(sources[i], at, tile[:count])
            if has_base:
                subtract(tile[:count], base[:count])
            if weights[row, i - first] != np.float32(0):
                add_scaled(total[:count], tile[:count], weights[row, i - first])
        for j in range(count):
            total[j] = np.float32(scale * total[j])
        if has_base:
            add_to_base(base[:count], total[:count])
        write(total[:count], out, at - begin)
        at += count


def _gram(
    sources: Any, has_base: bool, width: int, begin: int, end: int, grams: Any, is_finite: Any
) -> None:
    """grams[r, i, j] = the scalar product of rows r of models i and j, in float64; with a base,
    sources[0], of their differences from it. grams: float64[rows from begin to end, models, models]
    """
    first = 1 if has_base else 0
    count = sources.shape[0] - first
    base = np.empty(TILE, np.float32)
    tiles = np.empty((count, TILE), np.float32)
    lanes = np.empty((count, count, LANES), np.float64)
    for row in range((end - begin) // width):
        lanes[:] = 0.0
        row_end = begin + (row + 1) * width
        for at in range(begin + row * width, row_end, TILE):
            size = min(TILE, row_end - at)
            if has_base:
                is_finite[0] &= read(sources[0], at, base[:size])
            for i in range(count):
                is_finite[i + first] &= read(sources[i + first], at, tiles[i, :size])
                if has_base:
                    subtract(tiles[i, :size], base[:size])
                for j in range(i + 1):
                    add_dot(tiles[i, :size], tiles[j, :size], lanes[i, j])
        for i in range(count):
            for j in range(i + 1):
                grams[row, i, j] = grams[row, j, i] = lanes[i, j].sum()


def _gram_of_columns(
    sources: Any, has_base: bool, rows: int, columns: int, grams: Any, is_finite: Any
) -> None:
    """As `gram`, of columns. grams: float64[models, models, columns], lower half, zero before."""
    first = 1 if has_base else 0
    count = sources.shape[0] - first
    base = np.empty(TILE, np.float32)
    tiles = np.empty((count, TILE), np.float32)
    for row in range(rows):
        for column in range(0, columns, TILE):
            size = min(TILE, columns - column)
            at = row * columns + column
            if has_base:
                is_finite[0] &= read(sources[0], at, base[:size])
            for i in range(count):
                is_finite[i + first] &= read(sources[i + first], at, tiles[i, :size])
                if has_base:
                    subtract(tiles[i, :size], base[:size])
                for j in range(i + 1):
                    sums = grams[i, j, column : column + size]
                    for c in range(size):
                        sums[c] += np.float64(tiles[i, c]) * np.float64(tiles[j, c])


def _weigh_columns(
    sources: Any,
    has_base: bool,
    weights: Any,
    begin: int,
    end: int,
    out: Any,
    is_finite: Any,
) -> None:
    """As `weigh`, with weights per column: float32[models, columns]."""
    columns = weights.shape[1]
    base = np.zeros(TILE, np.float32)
    tile = np.empty(TILE, np.float32)
    total = np.empty(TILE, np.float32)
    first = 1 if has_base else 0
    at = begin
    while at < end:
        column = at % columns
        count = min(TILE, end - at, columns - column)
        if has_base:
            is_finite[0] &= read(sources[0], at, base[:count])
        total[:count] = np.float32(-0.0)
        for i in range(first, sources.shape[0]):
            is_finite[i] &= read(sources[i], at, tile[:count])
            if has_base:
                subtract(tile[:count], base[:count])
            for j in range(count):
                total[j] = np.float32(total[j] + weights[i - first, column + j] * tile[j])
        if has_base:
            add_to_base(base[:count], total[:count])
        write(total[:count], out, at - begin)
        at += count


weigh = compiled(_weigh)
gram = compiled(_gram)
gram_of_columns = compiled(_gram_of_columns)
weigh_columns = compiled(_weigh_columns)
