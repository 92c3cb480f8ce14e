"""Signs and bytes added to the base, and plain copies."""

from typing import Any

import numpy as np

from merge_on_load.kernels.lines import (
    LARGE_BYTES,
    add,
    add_rest,
    compiled,
    empty_row,
    fence,
    is_to_be_streamed,
    spare_lines,
    stream_line,
)
from merge_on_load.kernels.vectors import (
    CACHE_LINE_BYTES,
    LANES,
    from_int8,
    read,
    signed,
    splat,
    times,
)


def _add_signs(base: Any, signs: Any, scale: Any, out: Any) -> None:
    """out = base + scale[row] where the sign bit is 1, base - scale[row] where it is 0.

    signs: uint8[rows, ceil(width / 8)], column 8k + j in bit j of byte k. scale: float32[rows].
    """
    rows, width = base.shape
    whole = width - width % LANES
    is_streamed, spare = is_to_be_streamed(out), spare_lines(base, out)
    last = np.zeros(LANES // 8, np.uint8)
    for r in range(rows):
        from_row, to_row, bits, size = base[r], out[r], signs[r], splat(scale[r])
        for begin in range(0, whole, LANES):
            add(from_row, begin, signed(size, bits, begin // 8), to_row, is_streamed)
        if whole < width:
            last[: bits.size - whole // 8] = bits[whole // 8 :]
            add_rest(from_row, whole, signed(size, last, 0), to_row, spare)
    if is_streamed:
        fence()


def _add_signs_by_column(base: Any, signs: Any, scale: Any, column_scale: Any, out: Any) -> None:
    """out = base + scale[row] * column_scale[column] where the sign bit is 1, else less it.

    signs: as in `add_signs`. scale: float32[rows]. column_scale: float32[width]. The product and
    the sum are rounded one after the other.
    """
    rows, width = base.shape
    whole = width - width % LANES
    is_streamed, spare = is_to_be_streamed(out), spare_lines(base, out)
    last, last_scale = np.zeros(LANES // 8, np.uint8), np.zeros(LANES, np.float32)
    last_scale[: width - whole] = column_scale[whole:]
    for r in range(rows):
        from_row, to_row, bits, size = base[r], out[r], signs[r], splat(scale[r])
        for begin in range(0, whole, LANES):
            change = times(size, read(column_scale, begin))
            add(from_row, begin, signed(change, bits, begin // 8), to_row, is_streamed)
        if whole < width:
            last[: bits.size - whole // 8] = bits[whole // 8 :]
            change = times(size, read(last_scale, 0))
            add_rest(from_row, whole, signed(change, last, 0), to_row, spare)
    if is_streamed:
        fence()


def _add_scaled(base: Any, values: Any, scale: Any, group_size: int, out: Any) -> None:
    """out = base + scale[row, column // group_size] * values.

    values: int8[rows, width]. scale: float32[rows, ceil(width / group_size)]. The product and the
    sum are rounded one after the other.
    """
    rows, width = base.shape
    whole = width - width % LANES
    is_streamed, spare = is_to_be_streamed(out), spare_lines(base, out)
    has_whole_lines = group_size % LANES == 0
    sizes, last = empty_row(scale, width), np.zeros(LANES, np.int8)
    for r in range(rows):
        from_row, to_row, row, groups = base[r], out[r], values[r], scale[r]
        if has_whole_lines:
            for group in range(groups.size):
                size, first = splat(groups[group]), group * group_size
                for begin in range(first, min(first + group_size, whole), LANES):
                    change = times(size, from_int8(row, begin))
                    add(from_row, begin, change, to_row, is_streamed)
        if whole < width or not has_whole_lines:
            for c in range(whole if has_whole_lines else 0, width):
                sizes[c] = groups[c // group_size]
        if not has_whole_lines:
            for begin in range(0, whole, LANES):
                change = times(read(sizes, begin), from_int8(row, begin))
                add(from_row, begin, change, to_row, is_streamed)
        if whole < width:
            last[: width - whole] = row[whole:]
            change = times(read(sizes, whole), from_int8(last, 0))
            add_rest(from_row, whole, change, to_row, spare)
    if is_streamed:
        fence()


def _copy_lines(source: Any, out: Any) -> None:
    """out = source, both uint8[whole cache lines]; out begins with one."""
    for begin in range(0, out.size, CACHE_LINE_BYTES):
        stream_line(source, out, begin)
    fence()


add_signs = compiled(_add_signs)
add_signs_by_column = compiled(_add_signs_by_column)
add_scaled = compiled(_add_scaled)
_copy = compiled(_copy_lines)


def copy_bytes(source: Any, out: Any) -> None:
    """out = source, both uint8[bytes], contiguous."""
    is_streamed = out.size >= LARGE_BYTES and out.ctypes.data % CACHE_LINE_BYTES == 0
    whole = out.size - out.size % CACHE_LINE_BYTES if is_streamed else 0
    if whole:
        _copy(source[:whole], out[:whole])
    np.copyto(out[whole:], source[whole:])


def warm_up(base: Any, out: Any) -> None:
    """Compile for copies and for matrices like these, both without rows: some seconds, or a moment
    where it is on the disk already.
    """
    scale = np.empty((0, 1), np.float32)
    add_signs(base, np.empty((0, 1), np.uint8), np.empty(0, np.float32), out)
    add_scaled(base, np.empty(base.shape, np.int8), scale, 8, out)
    _copy(*[np.empty(0, np.uint8)] * 2)
