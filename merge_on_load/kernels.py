"""Base + payload -> weights in one pass over the memory, compiled by numba.

Matrices are numpy arrays [rows, width] of words, by dtype: bfloat16 as uint16, float16 as int16,
float32 as itself (`floats.words` makes them). Every sum is one float32 operation, rounded once to
the nearest even; NaN stays NaN. Functions let go of the interpreter lock and start no threads: the
caller gives each thread rows of its own.

What is large is written past the caches (non-temporal stores): memory that is overwritten whole
need not be read first, as plain stores do.

Importing this imports numba, which takes part of a second: only what decodes does so.
"""

# The loops are written so that LLVM turns them into vector instructions: rows are contiguous, inner
# loops have fixed lengths where they can, and nothing branches. A line of results is made in a
# buffer first, as LLVM makes no vector instructions of a loop of non-temporal stores; the columns
# that fill no line have a loop of their own, without which the first one takes twice as long.

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic, overload

_LANES = 32  # columns that one turn of an inner loop covers
_CACHE_LINE_BYTES = 64
_LARGE_BYTES = 1 << 21  # more than stays in a core's cache until it is read again


def compiled(function: Callable[..., None]) -> Any:
    """Compiled for each combination of dtypes on its first call; kept on disk where that can be."""
    try:
        made = njit(function, nogil=True, cache=True)
    except RuntimeError:  # no directory to keep it in can be written to
        return njit(function, nogil=True)
    cache = made._cache
    save = cache.save_overload

    def save_where_there_is_room(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    cache.save_overload = save_where_there_is_room
    return made


def load(row: Any, i: int) -> Any:
    """row[i] as float32, exactly."""
    raise NotImplementedError("exists in compiled code only")


def store(row: Any, i: int, value: Any) -> None:
    """row[i] = value, rounded to the nearest even."""
    raise NotImplementedError("exists in compiled code only")


@overload(load)
def _load_as(row: Any, i: Any) -> Any:
    if row.dtype == types.uint16:
        return _load_bfloat16
    if row.dtype == types.int16:
        return _load_float16
    return _load_float32


@overload(store)
def _store_as(row: Any, i: Any, value: Any) -> Any:
    if row.dtype == types.uint16:
        return _store_bfloat16
    if row.dtype == types.int16:
        return _store_float16
    return _store_float32


def _load_float32(row: Any, i: Any) -> Any:
    return row[i]


def _store_float32(row: Any, i: Any, value: Any) -> Any:
    row[i] = value


def _load_bfloat16(row: Any, i: Any) -> Any:
    return np.uint32(np.uint32(row[i]) << np.uint32(16)).view(np.float32)


def _store_bfloat16(row: Any, i: Any, value: Any) -> Any:
    bits = np.float32(value).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = np.uint32(bits + np.uint32(0x7FFF) + odd)
    found = rounded if value == value else np.uint32(0x7FC00000)  # chosen as a whole word: faster
    row[i] = np.uint16(found >> np.uint32(16))


# The two conversions of float16 follow F. Giesen, "half_to_float" and "float_to_half_fast3_rtne",
# https://gist.github.com/rygorous/2156668: numba knows no float16 on a CPU.


def _load_float16(row: Any, i: Any) -> Any:
    half = np.uint32(np.uint16(row[i]))
    bits = np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13))
    exponent = bits & np.uint32(0x0F800000)
    normal = np.uint32(bits + np.uint32(0x38000000))
    infinite = np.uint32(normal + np.uint32(0x38000000))
    subnormal = np.uint32(
        np.float32(
            np.uint32(normal + np.uint32(0x00800000)).view(np.float32) - np.float32(2.0**-14)
        ).view(np.uint32)
    )
    found = subnormal if exponent == 0 else normal
    found = infinite if exponent == np.uint32(0x0F800000) else found
    sign = np.uint32((half & np.uint32(0x8000)) << np.uint32(16))
    return np.uint32(found | sign).view(np.float32)


def _store_float16(row: Any, i: Any, value: Any) -> Any:
    signed = np.float32(value).view(np.uint32)
    sign = np.uint32(signed & np.uint32(0x80000000))
    bits = np.uint32(signed ^ sign)
    odd = np.uint32((bits >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(bits + np.uint32(0xC8000FFF) + odd) >> np.uint32(13))
    shifted = np.float32(bits.view(np.float32) + np.float32(0.5))
    subnormal = np.uint32(shifted.view(np.uint32) - np.uint32(0x3F000000))
    found = subnormal if bits < np.uint32(0x38800000) else normal
    found = np.uint32(0x7C00) if bits >= np.uint32(0x47800000) else found
    found = np.uint32(0x7E00) if bits > np.uint32(0x7F800000) else found
    row[i] = np.int16(np.uint16(found | (sign >> np.uint32(16))))


def _line_store(lane_count: int, *, is_streamed: bool) -> Any:
    """line, row, column -> None: row[column : column + lane_count] = line, in one store.

    Streamed: row[column] lies at the begin of a cache line.
    """

    def typed(_: Any, line: Any, row: Any, column: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            from_line, to_row = (
                context.make_array(kind)(context, builder, value).data
                for kind, value in zip(signature.args[:2], arguments[:2], strict=True)
            )
            lanes = ir.VectorType(from_line.type.pointee, lane_count).as_pointer()
            value = builder.load(builder.bitcast(from_line, lanes), align=1)
            place = builder.bitcast(builder.gep(to_row, [arguments[2]]), lanes)
            if is_streamed:
                store = builder.store(value, place, align=_CACHE_LINE_BYTES)
                one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
                store.set_metadata("nontemporal", one)
            else:
                builder.store(value, place, align=1)
            return context.get_dummy_value()

        return types.void(line, row, column), generate

    return intrinsic(typed)


_put = _line_store(_LANES, is_streamed=False)
_stream = _line_store(_LANES, is_streamed=True)
_stream_bytes = _line_store(_CACHE_LINE_BYTES, is_streamed=True)


@intrinsic
def _fence(_: Any) -> Any:
    """What was streamed is seen by other threads before what is stored from here on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@njit
def _is_to_be_streamed(out: Any) -> Any:
    is_aligned = (out.ctypes.data | out.strides[0]) % _CACHE_LINE_BYTES == 0
    return is_aligned and out.size * out.itemsize >= _LARGE_BYTES


@njit
def _empty_line(out: Any) -> Any:
    """[_LANES] of out's dtype, at the begin of a cache line: across two it would be slow."""
    size = _LANES * out.itemsize
    memory = np.empty(size + _CACHE_LINE_BYTES, np.uint8)
    begin = -memory.ctypes.data % _CACHE_LINE_BYTES
    return memory[begin : begin + size].view(out.dtype)


def _add_signs(base: Any, signs: Any, scale: Any, out: Any) -> None:
    """out = base + scale[row] where the sign bit is 1, base - scale[row] where it is 0.

    signs: uint8[rows, ceil(width / 8)], column 8k + j in bit j of byte k. scale: float32[rows].
    """
    rows, width = base.shape
    whole = width - width % _LANES
    is_streamed = _is_to_be_streamed(out)
    line = _empty_line(out)
    for r in range(rows):
        from_row, to_row, packed = base[r], out[r], signs[r]
        magnitude = np.float32(scale[r]).view(np.uint32)
        for begin in range(0, whole, _LANES):
            bits = np.uint32(0)
            for i in range(_LANES // 8):
                bits |= np.uint32(np.uint32(packed[begin // 8 + i]) << np.uint32(8 * i))
            bits = np.uint32(~bits)
            for j in range(_LANES):
                minus = np.uint32(bits << np.uint32(31 - j)) & np.uint32(0x80000000)
                change = np.uint32(magnitude ^ minus).view(np.float32)
                store(line, j, np.float32(load(from_row, begin + j) + change))
            if is_streamed:
                _stream(line, to_row, begin)
            else:
                _put(line, to_row, begin)
    if is_streamed:
        _fence()
    for r in range(rows if whole < width else 0):
        magnitude = np.float32(scale[r]).view(np.uint32)
        for c in range(whole, width):
            minus = np.uint32((~np.uint32(signs[r, c // 8]) >> np.uint32(c % 8)) & np.uint32(1))
            change = np.uint32(magnitude ^ np.uint32(minus << np.uint32(31))).view(np.float32)
            store(out[r], c, np.float32(load(base[r], c) + change))


def _add_scaled(base: Any, values: Any, scale: Any, group_size: int, out: Any) -> None:
    """out = base + scale[row, column // group_size] * values.

    values: int8[rows, width]. scale: float32[rows, ceil(width / group_size)]. The product and the
    sum are rounded one after the other.
    """
    rows, width = base.shape
    whole = width - width % _LANES if group_size % _LANES == 0 else 0
    is_streamed = _is_to_be_streamed(out)
    line = _empty_line(out)
    for r in range(rows):
        from_row, to_row, steps = base[r], out[r], values[r]
        for begin in range(0, whole, _LANES):
            step = scale[r, begin // group_size]
            for j in range(_LANES):
                change = np.float32(step * np.float32(steps[begin + j]))
                store(line, j, np.float32(load(from_row, begin + j) + change))
            if is_streamed:
                _stream(line, to_row, begin)
            else:
                _put(line, to_row, begin)
    if is_streamed:
        _fence()
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
    """out = source, both uint8[lines, _CACHE_LINE_BYTES], contiguous."""
    for r in range(source.shape[0]):
        _stream_bytes(source[r], out[r], 0)
    _fence()


add_signs = compiled(_add_signs)
add_scaled = compiled(_add_scaled)
add_planes = compiled(_add_planes)
_copy = compiled(_copy_lines)


def copy_bytes(source: Any, out: Any) -> None:
    """out = source, both uint8[bytes], contiguous."""
    lines = out.size // _CACHE_LINE_BYTES
    if out.size < _LARGE_BYTES or out.ctypes.data % _CACHE_LINE_BYTES:
        lines = 0
    whole = lines * _CACHE_LINE_BYTES
    if lines:
        _copy(*(one[:whole].reshape(lines, _CACHE_LINE_BYTES) for one in (source, out)))
    np.copyto(out[whole:], source[whole:])


def warm_up(base: Any, out: Any) -> None:
    """Compile for copies and for matrices like these, both without rows: some seconds, or a moment
    where it is on the disk already.
    """
    scale = np.empty((0, 1), np.float32)
    add_signs(base, np.empty((0, 1), np.uint8), np.empty(0, np.float32), out)
    add_scaled(base, np.empty(base.shape, np.int8), scale, 8, out)
    _copy(*[np.empty((0, _CACHE_LINE_BYTES), np.uint8)] * 2)
