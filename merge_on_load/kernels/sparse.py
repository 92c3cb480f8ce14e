"""Some weights of each row: at places that a seed gives, so that no byte tells them, or at given
ones.
"""

from collections.abc import Callable
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
from merge_on_load.kernels.steps import READERS


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
    read = READERS[bits]

    def add(
        base: Any, packed: Any, scale: Any, seeds: Any, group_size: int, keep: int, out: Any
    ) -> None:
        rows, width = base.shape
        blocks = -(-width // keep)
        is_streamed, line = is_to_be_streamed(out), empty_line(out)
        change, kept = empty_change(1, width)[0], empty_change(1, blocks)[0]
        places = np.empty(blocks, np.int32)
        for r in range(rows):
            read(packed[r], scale[r], group_size // LANES, kept)
            seed = np.uint32(seeds[r])
            change[:] = 0
            for k in range(blocks):
                places[k] = k * keep + _place(seed, k, keep)
            if blocks * keep > width:
                begin = (blocks - 1) * keep
                places[blocks - 1] = begin + _place(seed, blocks - 1, width - begin)
            for k in range(blocks):
                change[places[k]] = kept[k]
            add_row(base[r], change, out[r], line, is_streamed)
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
    read = READERS[bits]

    def add(base: Any, packed: Any, scale: Any, columns: Any, group_size: int, out: Any) -> None:
        rows, width = base.shape
        count = columns.shape[1]
        is_streamed, line = is_to_be_streamed(out), empty_line(out)
        change, kept = empty_change(1, width)[0], empty_change(1, count)[0]
        for r in range(rows):
            read(packed[r], scale[r], group_size // LANES, kept)
            change[:] = 0
            at = columns[r]
            for k in range(count):
                change[at[k]] = kept[k]
            add_row(base[r], change, out[r], line, is_streamed)
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
