"""What all kernels are made of: compiling, words as float32, lines added to lines.

Matrices are numpy arrays [rows, width] of words, by dtype: bfloat16 as uint16, float16 as int16,
float32 as itself (`floats.words` makes them). Every sum is one float32 operation, rounded once to
the nearest even; NaN stays NaN. Functions let go of the interpreter lock and start no threads: the
caller gives each thread rows of its own.

What is large is written past the caches (non-temporal stores): memory that is overwritten whole
need not be read first, as plain stores do.

Importing this imports numba, which takes part of a second: only what decodes does so.
"""

import functools
import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic, overload

from merge_on_load.kernels.vectors import (
    CACHE_LINE_BYTES,
    LANES,
    call,
    place,
    plus,
    put,
    read,
    store_past_caches,
    stream,
)

_AHEAD = (
    1024  # columns: what comes meanwhile, also from the next page, where CPUs stop by themselves
)
LARGE_BYTES = 1 << 21  # more than stays in a core's cache until it is read again


_HERE = Path(__file__).parent


@functools.cache
def stamp_of(folder: Path) -> tuple[float, int]:
    """Changes where a file does of that folder or of the kernels'."""
    found = [file.stat() for one in {_HERE, folder} for file in one.glob("*.py")]
    return max(one.st_mtime for one in found), sum(one.st_size for one in found)


def compiled(function: Callable[..., Any], variant: str = "") -> Any:
    """Compiled for each combination of dtypes on its first call; kept on disk where that can be,
    until a file changes whose kernels it may contain: one of its folder's, or of this one's.

    variant: tells apart what one function makes of several closures, "4 bits" from "8 bits".
    ValueError: a closure without one.
    """
    if function.__closure__ and not variant:
        raise ValueError(f"{function.__qualname__} is a closure: which of them it is must be told")
    stamp = stamp_of(Path(function.__code__.co_filename).parent)
    try:
        made = njit(function, nogil=True, cache=True)
    except RuntimeError:  # no directory to keep it in can be written to
        return njit(function, nogil=True)
    cache = made._cache
    kept = getattr(cache, "_cache_file", None)
    if kept is not None and hasattr(kept, "_source_stamp"):
        kept._source_stamp = stamp
    if variant and hasattr(cache, "_index_key"):
        # Numba tells closures apart by what they contain, pickled: functions have a number there
        # that is another in each process, so that nothing would be found again.
        code = hashlib.sha256(function.__code__.co_code).hexdigest()
        cache._index_key = lambda signature, codegen: (
            signature,
            codegen.magic_tuple(),
            (code, variant),
        )
    save = cache.save_overload

    def save_where_there_is_room(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    cache.save_overload = save_where_there_is_room
    return made


def load(row: Any, i: Any) -> Any:
    """row[i] as float32, exactly."""
    raise NotImplementedError("exists in compiled code only")


def store(row: Any, i: Any, value: Any) -> None:
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


@intrinsic
def stream_line(_: Any, from_row: Any, to_row: Any, index: Any) -> Any:
    """to_row = from_row, a cache line's words from `index` on, past the caches; both of one dtype.

    to_row[index] lies at the begin of a cache line.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(ir.IntType(8), CACHE_LINE_BYTES)
        source, target = (
            place(context, builder, kind, line, array, arguments[2])
            for kind, array in zip((from_row, to_row), arguments[:2], strict=True)
        )
        store_past_caches(builder, builder.load(source, align=1), target)
        return context.get_dummy_value()

    return types.void(from_row, to_row, index), generate


@intrinsic
def fetch_ahead(_: Any, array: Any, index: Any) -> Any:
    """Have the cache line of array[index] on its way; nothing happens where there is no such."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = place(context, builder, array, ir.IntType(8), *arguments)
        numbers = [ir.Constant(ir.IntType(32), value) for value in (0, 3, 1)]  # read, keep, data
        call(builder, "llvm.prefetch.p0", ir.VoidType(), where, *numbers)
        return context.get_dummy_value()

    return types.void(array, index), generate


@intrinsic
def fence(_: Any) -> Any:
    """What was streamed is seen by other threads before what is stored from here on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@njit
def is_to_be_streamed(out: Any) -> Any:
    is_aligned = (out.ctypes.data | out.strides[0]) % CACHE_LINE_BYTES == 0
    return is_aligned and out.size * out.itemsize >= LARGE_BYTES


@njit
def empty_row(like: Any, width: int) -> Any:
    """[width rounded up to whole lines] of the dtype of `like`, from the begin of a cache line."""
    size = -(-width // LANES) * LANES * like.itemsize
    memory = np.empty(size + CACHE_LINE_BYTES, np.uint8)
    begin = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[begin : begin + size].view(like.dtype)


@njit
def spare_lines(base: Any, out: Any) -> Any:
    """What `add_rest` needs beside: a line of zeros of either dtype."""
    return np.zeros(LANES, base.dtype), np.zeros(LANES, out.dtype)


@njit
def add(from_row: Any, column: int, change: Any, to_row: Any, is_streamed: bool) -> None:
    """to_row = from_row + change, one line from `column` on."""
    fetch_ahead(from_row, column + _AHEAD)
    found = plus(read(from_row, column), change)
    if is_streamed:
        stream(to_row, column, found)
    else:
        put(to_row, column, found)


@njit
def add_rest(from_row: Any, column: int, change: Any, to_row: Any, spare: Any) -> None:
    """to_row = from_row + change, from `column` on, where less than a line is left."""
    before, after = spare
    for c in range(column, from_row.shape[0]):
        before[c - column] = from_row[c]
    put(after, 0, plus(read(before, 0), change))
    for c in range(column, from_row.shape[0]):
        to_row[c] = after[c - column]
