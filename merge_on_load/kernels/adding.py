"""Signs, bytes and integer differences added to the base, and plain copies."""

from typing import Any

import numpy as np

from merge_on_load.kernels.lines import (
    CACHE_LINE_BYTES,
    LANES,
    LARGE_BYTES,
    add_row,
    compiled,
    empty_change,
    empty_line,
    fence,
    is_to_be_streamed,
    load,
    put,
    store,
    stream,
    stream_bytes,
)


def _add_signs(base: Any, signs: Any, scale: Any, out: Any) -> None:
    """out = base + scale[row] where the sign bit is 1, base - scale[row] where it is 0.

    signs: uint8[rows, ceil(width / 8)], column 8k + j in bit j of byte k. scale: float32[rows].
    """
    rows, width = base.shape
    whole = width - width % LANES
    is_streamed = is_to_be_streamed(out)
    line = empty_line(out)
    for r in range(rows):
        from_row, to_row, packed = base[r], out[r], signs[r]
        magnitude = np.float32(scale[r]).view(np.uint32)
        for begin in range(0, whole, LANES):
            bits = np.uint32(0)
            for i in range(LANES // 8):
                bits |= np.uint32(np.uint32(packed[begin // 8 + i]) << np.uint32(8 * i))
            bits = np.uint32(~bits)
            for j in range(LANES):
                minus = np.uint32(bits << np.uint32(31 - j)) & np.uint32(0x80000000)
                change = np.uint32(magnitude ^ minus).view(np.float32)
                store(line, j, np.float32(load(from_row, begin + j) + change))
            if is_streamed:
                stream(line, to_row, begin)
            else:
                put(line, to_row, begin)
    if is_streamed:
        fence()
    for r in range(rows if whole < width else 0):
        magnitude = np.float32(scale[r]).view(np.uint32)
        for c in range(whole, width):
            minus = np.uint32((~np.uint32(signs[r, c // 8]) >> np.uint32(c % 8)) & np.uint32(1))
            change = np.uint32(magnitude ^ np.uint32(minus << np.uint32(31))).view(np.float32)
            store(out[r], c, np.float32(load(base[r], c) + change))


def _add_signs_by_column(base: Any, signs: Any, scale: Any, column_scale: Any, out: Any) -> None:
    """out = base + scale[row] * column_scale[column] where the sign bit is 1, else less it.

    signs: as in `add_signs`. scale: float32[rows]. column_scale: float32[width]. The product and
    the sum are rounded one after the other.
    """
    rows, width = base.shape
    is_streamed, line = is_to_be_streamed(out), empty_line(out)
    change = empty_change(1, width)[0]
    for r in range(rows):
        packed, size = signs[r], np.float32(scale[r])
        for begin in range(0, width - width % 8, 8):
            bits = np.uint32(~np.uint32(packed[begin // 8]))
            values, sizes = change[begin : begin + 8], column_scale[begin : begin + 8]
            for j in range(8):
                minus = np.uint32(bits << np.uint32(31 - j)) & np.uint32(0x80000000)
                product = np.float32(size * sizes[j]).view(np.uint32)
                values[j] = np.uint32(product ^ minus).view(np.float32)
        for c in range(width - width % 8, width):
            minus = np.uint32((~np.uint32(packed[c // 8]) >> np.uint32(c % 8)) & np.uint32(1))
            product = np.float32(size * column_scale[c]).view(np.uint32)
            change[c] = np.uint32(product ^ np.uint32(minus << np.uint32(31))).view(np.float32)
        add_row(base[r], change, out[r], line, is_streamed)
    if is_streamed:
        fence()


def _add_scaled(base: Any, values: Any, scale: Any, group_size: int, out: Any) -> None:
    """out = base + scale[row, column // group_size] * values.

    values: int8[rows, width]. scale: float32[rows, ceil(width / group_size)]. The product and the
    sum are rounded one after the other.
    """
    rows, width = base.shape
    whole = width - width % LANES if group_size % LANES == 0 else 0
    is_streamed = is_to_be_streamed(out)
    line = empty_line(out)
    for r in range(rows):
        from_row, to_row, steps = base[r], out[r], values[r]
        for begin in range(0, whole, LANES):
            step = scale[r, begin // group_size]
            for j in range(LANES):
                change = np.float32(step * np.float32(steps[begin + j]))
                store(line, j, np.float32(load(from_row, begin + j) + change))
            if is_streamed:
                stream(line, to_row, begin)
            else:
                put(line, to_row, begin)
    if is_streamed:
        fence()
    for r in range(rows if whole < width else 0):
        for c in range(whole, width):
            change = np.float32(scale[r, c // group_size] * np.float32(values[r, c]))
            store(out[r], c, np.float32(load(base[r], c) + change))


def _add_planes(base: Any, planes: Any, out: Any) -> None:
    """out = base + the difference whose zigzag's byte p is planes[p], modulo the word size.

    base, out: one unsigned dtype, [words]. planes: uint8[bytes per word, words].
    """
    one = out.dtype.type(1)
    for i in range(base.shape[0]):
        zigzag = out.dtype.type(0)
        for p in range(planes.shape[0]):
            zigzag |= out.dtype.type(out.dtype.type(planes[p, i]) << out.dtype.type(8 * p))
        sign = out.dtype.type(out.dtype.type(~out.dtype.type(zigzag & one)) + one)
        out[i] = out.dtype.type(base[i] + out.dtype.type((zigzag >> one) ^ sign))


def _copy_lines(source: Any, out: Any) -> None:
    """out = source, both uint8[lines, CACHE_LINE_BYTES], contiguous."""
    for r in range(source.shape[0]):
        stream_bytes(source[r], out[r], 0)
    fence()


add_signs = compiled(_add_signs)
add_signs_by_column = compiled(_add_signs_by_column)
add_scaled = compiled(_add_scaled)
add_planes = compiled(_add_planes)
_copy = compiled(_copy_lines)


def copy_bytes(source: Any, out: Any) -> None:
    """out = source, both uint8[bytes], contiguous."""
    lines = out.size // CACHE_LINE_BYTES
    if out.size < LARGE_BYTES or out.ctypes.data % CACHE_LINE_BYTES:
        lines = 0
    whole = lines * CACHE_LINE_BYTES
    if lines:
        _copy(*(one[:whole].reshape(lines, CACHE_LINE_BYTES) for one in (source, out)))
    np.copyto(out[whole:], source[whole:])


def warm_up(base: Any, out: Any) -> None:
    """Compile for copies and for matrices like these, both without rows: some seconds, or a moment
    where it is on the disk already.
    """
    scale = np.empty((0, 1), np.float32)
    add_signs(base, np.empty((0, 1), np.uint8), np.empty(0, np.float32), out)
    add_scaled(base, np.empty(base.shape, np.int8), scale, 8, out)
    _copy(*[np.empty((0, CACHE_LINE_BYTES), np.uint8)] * 2)
