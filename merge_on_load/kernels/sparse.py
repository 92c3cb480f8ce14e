"""Some weights of each row: at places that a seed gives, so that no byte tells them, or at given
ones. All others are the base's, bit for bit.

Where no half of a line has two of them, they are added as lines; else a row is copied into a
buffer, changed there, and written as a whole.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numba.extending import overload

from merge_on_load.kernels.lines import (
    add,
    add_rest,
    compiled,
    empty_row,
    fence,
    fetch_ahead,
    is_to_be_streamed,
    load,
    move_line,
    spare_lines,
    store,
    stream_line,
)
from merge_on_load.kernels.steps import READERS
from merge_on_load.kernels.vectors import (
    CACHE_LINE_BYTES,
    LANES,
    placed,
    put,
    read,
)

_HALF = LANES // 2


def _convert(from_row: Any, buffer: Any) -> None:
    """buffer = from_row; the same words where the dtype is."""
    raise NotImplementedError("exists in compiled code only")


@overload(_convert)
def _convert_as(from_row: Any, buffer: Any) -> Any:
    return _copy if from_row.dtype == buffer.dtype else _convert_lines


def _copy(from_row: Any, buffer: Any) -> Any:
    lanes = CACHE_LINE_BYTES // buffer.itemsize
    whole = from_row.size - from_row.size % lanes
    for begin in range(0, whole, lanes):
        move_line(from_row, buffer, begin)
    for c in range(whole, from_row.size):
        buffer[c] = from_row[c]


def _convert_lines(from_row: Any, buffer: Any) -> Any:
    whole = from_row.size - from_row.size % LANES
    for begin in range(0, whole, LANES):
        put(buffer, begin, read(from_row, begin))
    for c in range(whole, from_row.size):
        store(buffer, c, load(from_row, c))


@njit
def _write_row(
    from_row: Any,
    columns: Any,
    change: Any,
    buffer: Any,
    to_row: Any,
    next_row: Any,
    is_streamed: bool,
) -> None:
    """to_row = from_row, and + change at the columns. buffer: an `empty_row` of to_row.

    next_row: what is read next; it comes while this one is changed and goes.
    """
    _convert(from_row, buffer)
    step = from_row.size // max(1, columns.size)
    for k in range(columns.size):
        fetch_ahead(next_row, k * step)
        column = np.uint32(columns[k])  # unsigned, or it would be asked whether it is negative
        store(buffer, column, np.float32(load(from_row, column) + change[k]))
    lanes = CACHE_LINE_BYTES // buffer.itemsize
    whole = to_row.size - to_row.size % lanes
    for begin in range(0, whole, lanes):
        fetch_ahead(next_row, begin)
        if is_streamed:
            stream_line(buffer, to_row, begin)
        else:
            move_line(buffer, to_row, begin)
    for c in range(whole, to_row.size):
        to_row[c] = buffer[c]


@njit
def _add_placed(
    from_row: Any,
    columns: Any,
    change: Any,
    block_of: Any,
    to_row: Any,
    spare: Any,
    is_streamed: bool,
) -> None:
    """to_row = from_row, and + change at the columns, of which there is one in a half of a line or
    none. block_of: which one that may be, int32[halves].
    """
    whole = from_row.size - from_row.size % LANES
    for begin in range(0, whole, LANES):
        half = begin // _HALF
        line = placed(columns, change, block_of[half], block_of[half + 1], begin)
        add(from_row, begin, line, to_row, is_streamed)
    if whole < from_row.size:
        half = whole // _HALF
        line = placed(columns, change, block_of[half], block_of[half + 1], whole)
        add_rest(from_row, whole, line, to_row, spare)


@njit
def _blocks_of_halves(width: int, keep: int) -> Any:
    """The block that each half of a line lies in, or the last one. keep: a multiple of a half."""
    found = np.empty(-(-width // LANES) * 2, np.int32)
    for half in range(found.size):
        found[half] = min(half * _HALF, width - 1) // keep
    return found


@njit
def _place(seed: Any, block: Any, size: Any) -> Any:
    """The column within a block of that size: MurmurHash3's finalizer, then its high bits."""
    word = np.uint32(seed + np.uint32(block) * np.uint32(0x9E3779B1))
    word ^= word >> np.uint32(16)
    word = np.uint32(word * np.uint32(0x85EBCA6B))
    word ^= word >> np.uint32(13)
    word = np.uint32(word * np.uint32(0xC2B2AE35))
    word ^= word >> np.uint32(16)
    return np.int64((np.uint64(word) * np.uint64(size)) >> np.uint64(32))


def _adder(bits: int) -> Callable[..., None]:
    read_steps = READERS[bits]

    def add(
        base: Any, packed: Any, scale: Any, seeds: Any, group_size: int, keep: int, out: Any
    ) -> None:
        rows, width = base.shape
        blocks = -(-width // keep)
        is_streamed, buffer = is_to_be_streamed(out), empty_row(out, width)
        change, places = empty_row(scale, blocks), np.empty(blocks, np.int32)
        block_of, spare = _blocks_of_halves(width, keep), spare_lines(base, out)
        for r in range(rows):
            read_steps(packed[r], scale[r], group_size, change)
            seed = np.uint32(seeds[r])
            for k in range(blocks):
                places[k] = k * keep + _place(seed, k, keep)
            if blocks * keep > width:
                begin = (blocks - 1) * keep
                places[blocks - 1] = begin + _place(seed, blocks - 1, width - begin)
            if keep % _HALF == 0:
                _add_placed(base[r], places, change, block_of, out[r], spare, is_streamed)
            else:
                next_row = base[min(r + 1, rows - 1)]
                _write_row(base[r], places, change, buffer, out[r], next_row, is_streamed)
        if is_streamed:
            fence()

    made: Callable[..., None] = compiled(add)
    return made


_ADDERS = {bits: _adder(bits) for bits in READERS}


def add_sparse(
    base: Any,
    packed: Any,
    scale: Any,
    seeds: Any,
    group_size: int,
    keep: int,
    bits: int,
    out: Any,
) -> None:
    """out = base, and in each block of `keep` columns one weight + scale * step.

    packed, scale: the kept ones of each row, as `add_steps` has them. seeds: int32[rows].
    """
    _ADDERS[bits](base, packed, scale, seeds, group_size, keep, out)


def _adder_at(bits: int) -> Callable[..., None]:
    read_steps = READERS[bits]

    def add(base: Any, packed: Any, scale: Any, columns: Any, group_size: int, out: Any) -> None:
        rows, width = base.shape
        is_streamed, buffer = is_to_be_streamed(out), empty_row(out, width)
        change = empty_row(scale, columns.shape[1])
        for r in range(rows):
            read_steps(packed[r], scale[r], group_size, change)
            _write_row(
                base[r], columns[r], change, buffer, out[r], base[min(r + 1, rows - 1)], is_streamed
            )
        if is_streamed:
            fence()

    made: Callable[..., None] = compiled(add)
    return made


_ADDERS_AT = {bits: _adder_at(bits) for bits in READERS}


def add_at(
    base: Any, packed: Any, scale: Any, columns: Any, group_size: int, bits: int, out: Any
) -> None:
    """out = base, and scale * step at some columns of each row.

    packed, scale: theirs, as `add_steps` has them. columns: int32[rows, count], within the row.
    """
    _ADDERS_AT[bits](base, packed, scale, columns, group_size, out)


def places(seeds: Any, width: int, keep: int) -> Any:
    """The columns kept of each row: int32[rows, ceil(width / keep)]."""
    found = np.empty((len(seeds), -(-width // keep)), np.int32)
    _fill_places(seeds, width, keep, found)
    return found


def _places(seeds: Any, width: int, keep: int, found: Any) -> None:
    for r in range(found.shape[0]):
        for k in range(found.shape[1]):
            begin = k * keep
            found[r, k] = begin + _place(np.uint32(seeds[r]), k, min(keep, width - begin))


_fill_places = compiled(_places)
