"""Values of few bits, times a scale: int2, int3, int4, and what sparse codecs keep.

`codecs.steps` says how 32 values are one word. A code c of b bits stands for c - (2**b - 1) / 2: as
many steps above zero as below.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from merge_on_load.kernels.lines import (
    add,
    add_rest,
    compiled,
    fence,
    is_to_be_streamed,
    spare_lines,
)
from merge_on_load.kernels.vectors import (
    LANES,
    odd_steps,
    put,
    signed,
    splat,
    times,
)


def _changer(bits: int) -> Any:
    """(packed, index, half a scale as Lanes) -> scale * step of the word at packed[index]."""
    if bits == 1:
        return njit(lambda packed, index, half: signed(half, packed, index))
    odd = odd_steps(bits)  # of twice the step, so that no half is left to subtract
    return njit(lambda packed, index, half: times(odd(packed, index), half))


_CHANGERS = {bits: _changer(bits) for bits in (1, 2, 3, 4)}


@njit
def _half(scale: Any) -> Any:
    return splat(np.float32(scale * np.float32(0.5)))


def _reader(bits: int) -> Any:
    """packed uint8[words * bits * 4], scale float32[groups], columns of a group -> float32 steps
    [words * LANES].
    """
    change_of, word_bytes = _CHANGERS[bits], bits * LANES // 8

    @njit
    def read(packed: Any, scale: Any, group_size: int, steps: Any) -> None:
        for group in range(scale.size):
            half, first = _half(scale[group]), group * group_size
            for begin in range(first, min(first + group_size, steps.size), LANES):
                put(steps, begin, change_of(packed, begin // LANES * word_bytes, half))

    return read


READERS = {bits: _reader(bits) for bits in _CHANGERS}


def _adder(bits: int) -> Callable[..., None]:
    change_of, word_bytes = _CHANGERS[bits], bits * LANES // 8

    def add_steps(base: Any, packed: Any, scale: Any, group_size: int, out: Any) -> None:
        rows, width = base.shape
        whole = width - width % LANES
        is_streamed, spare = is_to_be_streamed(out), spare_lines(base, out)
        for r in range(rows):
            from_row, to_row, row, groups = base[r], out[r], packed[r], scale[r]
            for group in range(groups.size):
                half, first = _half(groups[group]), group * group_size
                for begin in range(first, min(first + group_size, whole), LANES):
                    change = change_of(row, begin // LANES * word_bytes, half)
                    add(from_row, begin, change, to_row, is_streamed)
            if whole < width:
                half = _half(groups[groups.size - 1])
                change = change_of(row, whole // LANES * word_bytes, half)
                add_rest(from_row, whole, change, to_row, spare)
        if is_streamed:
            fence()

    made: Callable[..., None] = compiled(add_steps, f"{bits} bits")
    return made


_ADDERS = {bits: _adder(bits) for bits in READERS}


def add_steps(base: Any, packed: Any, scale: Any, group_size: int, bits: int, out: Any) -> None:
    """out = base + scale[row, column // group_size] * step.

    packed: uint8[rows, words * bits * 4], words = ceil(width / 32). scale: float32[rows, groups].
    group_size: a multiple of 32. The product and the sum are rounded one after the other.
    """
    _ADDERS[bits](base, packed, scale, group_size, out)
