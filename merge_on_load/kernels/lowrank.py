"""A product of two thin matrices added to the base, and one sign a weight beside it."""

from typing import Any

import numpy as np
from numba import njit

from merge_on_load.kernels.lines import (
    LANES,
    add_row,
    compiled,
    empty_change,
    empty_line,
    fence,
    is_to_be_streamed,
)

_ROWS = 4  # that are made at once, so that a stretch of `right` is read once for all of them
_STRETCH = 4096  # columns: a stretch of sixteen ranks stays in the second cache


@njit
def _multiply(left: Any, right: Any, change: Any) -> None:
    """change = left @ right, the ranks one after the other, each product and sum rounded.

    left: [rows, rank]. right: [rank, columns]. change: [rows, columns or more].
    """
    columns = right.shape[1]
    rank = left.shape[1]
    whole = rank - rank % 4
    for r in range(left.shape[0]):
        row, factors = change[r], left[r]
        for c in range(columns):
            row[c] = np.float32(0)
        for k in range(0, whole, 4):
            one, two, three, four = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
            first, second, third, fourth = right[k], right[k + 1], right[k + 2], right[k + 3]
            for c in range(columns):
                total = np.float32(row[c] + np.float32(one * first[c]))
                total = np.float32(total + np.float32(two * second[c]))
                total = np.float32(total + np.float32(three * third[c]))
                row[c] = np.float32(total + np.float32(four * fourth[c]))
        for k in range(whole, rank):
            one, first = factors[k], right[k]
            for c in range(columns):
                row[c] = np.float32(row[c] + np.float32(one * first[c]))


@njit
def _add_signs_to(change: Any, packed: Any, scale: Any) -> None:
    """change += scale where the sign bit is 1, else -= scale."""
    magnitude = np.float32(scale).view(np.uint32)
    for w in range(packed.shape[0] // 4):
        bits = np.uint32(~packed[w * 4 : w * 4 + 4].view(np.uint32)[0])
        values = change[w * LANES : (w + 1) * LANES]
        for j in range(LANES):
            minus = np.uint32(bits << np.uint32(31 - j)) & np.uint32(0x80000000)
            values[j] = np.float32(values[j] + np.uint32(magnitude ^ minus).view(np.float32))


def _add_product(base: Any, left: Any, right: Any, signs: Any, scale: Any, out: Any) -> None:
    """out = base + (left @ right + signs), the parenthesis rounded first.

    left: float32[rows, rank]. right: float32[rank, width]. signs: uint8[rows, 4 * words], 32
    columns a word, or of no columns: then there are none. scale: float32[rows], theirs.
    """
    rows, width = base.shape
    is_streamed, line = is_to_be_streamed(out), empty_line(out)
    change = empty_change(_ROWS, width)
    for begin in range(0, rows, _ROWS):
        end = min(begin + _ROWS, rows)
        for column in range(0, width, _STRETCH):
            to = min(column + _STRETCH, width)
            _multiply(left[begin:end], right[:, column:to], change[:, column:])
        for r in range(begin, end):
            row = change[r - begin]
            if signs.shape[1]:
                _add_signs_to(row, signs[r], scale[r])
            add_row(base[r], row, out[r], line, is_streamed)
    if is_streamed:
        fence()


add_product = compiled(_add_product)
