"""Some weights of each row: at places that a seed gives, so that no byte tells them, or at marked
ones. All others are the base's.

A row has a mark for each weight, a bit; what is added to the marked ones is spread over its lines.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from merge_on_load.kernels.lines import (
    add,
    add_rest,
    compiled,
    empty_row,
    fence,
    is_to_be_streamed,
    spare_lines,
)
from merge_on_load.kernels.steps import READERS
from merge_on_load.kernels.vectors import LANES, count_marks, spread


@njit
def _add_spread(
    from_row: Any, change: Any, marks: Any, to_row: Any, spare: Any, is_streamed: bool
) -> None:
    """to_row = from_row, and at each mark + the next change. marks: uint8[whole words]."""
    whole = from_row.size - from_row.size % LANES
    at = 0
    for begin in range(0, whole, LANES):
        line = spread(change, at, marks, begin // 8)
        at += count_marks(marks, begin // 8)
        add(from_row, begin, line, to_row, is_streamed)
    if whole < from_row.size:
        add_rest(from_row, whole, spread(change, at, marks, whole // 8), to_row, spare)


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


@njit
def _places_of(seed: Any, width: int, keep: int, places: Any) -> None:
    """Fill places, of one row: a column of each block, the last of which may be short."""
    for k in range(places.size):
        places[k] = k * keep + _place(seed, k, keep)
    begin = (places.size - 1) * keep
    if places.size and begin + keep > width:
        places[places.size - 1] = begin + _place(seed, places.size - 1, width - begin)


@njit
def _mark(places: Any, keep: int, marks: Any) -> None:
    """Set the marks of a row at its places, one in each `keep` columns, and no others."""
    if keep == LANES // 2:
        halves = marks.view(np.uint16)
        for k in range(places.size):
            halves[k] = np.uint16(1 << (places[k] % (LANES // 2)))
        halves[places.size :] = 0
        return
    if keep == LANES:
        lines = marks.view(np.uint32)
        for k in range(places.size):
            lines[k] = np.uint32(1) << np.uint32(places[k] % LANES)
        return
    marks[:] = 0
    for k in range(places.size):
        column = np.uint32(places[k])  # unsigned, or it would be asked whether it is negative
        marks[column >> np.uint32(3)] |= np.uint8(1 << (column & np.uint32(7)))


def _adder(bits: int) -> Callable[..., None]:
    read_steps = READERS[bits]

    def add_seeded(
        base: Any, packed: Any, scale: Any, seeds: Any, group_size: int, keep: int, out: Any
    ) -> None:
        rows, width = base.shape
        blocks = -(-width // keep)
        is_streamed, spare = is_to_be_streamed(out), spare_lines(base, out)
        change, places = empty_row(scale, blocks), np.empty(blocks, np.int32)
        marks = np.empty(-(-width // LANES) * LANES // 8, np.uint8)
        for r in range(rows):
            read_steps(packed[r], scale[r], group_size, change)
            _places_of(np.uint32(seeds[r]), width, keep, places)
            _mark(places, keep, marks)
            _add_spread(base[r], change, marks, out[r], spare, is_streamed)
        if is_streamed:
            fence()

    made: Callable[..., None] = compiled(add_seeded, f"{bits} bits")
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


def _marked_adder(bits: int) -> Callable[..., None]:
    read_steps = READERS[bits]

    def add_marked(
        base: Any, packed: Any, scale: Any, marks: Any, group_size: int, count: int, out: Any
    ) -> None:
        rows = base.shape[0]
        is_streamed, spare = is_to_be_streamed(out), spare_lines(base, out)
        change = empty_row(scale, count)
        for r in range(rows):
            read_steps(packed[r], scale[r], group_size, change)
            _add_spread(base[r], change, marks[r], out[r], spare, is_streamed)
        if is_streamed:
            fence()

    made: Callable[..., None] = compiled(add_marked, f"{bits} bits")
    return made


_MARKED_ADDERS = {bits: _marked_adder(bits) for bits in READERS}


def add_marked(
    base: Any,
    packed: Any,
    scale: Any,
    marks: Any,
    group_size: int,
    count: int,
    bits: int,
    out: Any,
) -> None:
    """out = base, and at the marks of each row scale * step more.

    packed, scale: theirs, `count` a row, as `add_steps` has them. marks: uint8[rows, 4 * lines],
    column 8i + j in bit j of byte i; `count` in each row, none beyond it.
    """
    _MARKED_ADDERS[bits](base, packed, scale, marks, group_size, count, out)


def _mark_gaps(gaps: Any, long_gap: int, count: int, width: int, marks: Any) -> bool:
    """Set `count` marks in each row, uint8[rows, 4 * lines]: before each lie as many columns as the
    next byte of gaps says; long_gap says so many, and more in the byte behind. Tells whether there
    are as many, all below width, and no byte is left.
    """
    # Unsigned, or each would be asked whether it is negative.
    at, size, columns = np.uint64(0), np.uint64(gaps.size), np.uint64(width)
    one = np.uint64(1)
    for r in range(marks.shape[0]):
        row, column = marks[r], np.uint64(0)
        for _ in range(count):
            while at < size and gaps[at] == long_gap:
                column += np.uint64(long_gap)
                at += one
            if at == size:
                return False
            column += np.uint64(gaps[at])
            at += one
            if column >= columns:
                return False
            row[column >> np.uint64(3)] |= np.uint8(one << (column & np.uint64(7)))
            column += one
    return bool(at == size)


mark_gaps = compiled(_mark_gaps)


def places(seeds: Any, width: int, keep: int) -> Any:
    """The columns kept of each row: int32[rows, ceil(width / keep)]."""
    found = np.empty((len(seeds), -(-width // keep)), np.int32)
    _fill_places(seeds, width, keep, found)
    return found


def _places(seeds: Any, width: int, keep: int, found: Any) -> None:
    for r in range(found.shape[0]):
        _places_of(np.uint32(seeds[r]), width, keep, found[r])


_fill_places = compiled(_places)
