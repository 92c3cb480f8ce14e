"""Values of few bits in bit planes, times a scale: int2, int3, int4, and what sparse codecs keep.

32 values are one word: `bits` planes of four bytes, value j in bit j of each, the lowest plane
first. A code c of b bits stands for c - (2**b - 1) / 2: as many steps above zero as below.
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


def _reader(bits: int) -> Any:
    """packed uint8[words * bits * 4], scale float32[groups], words a group -> steps float32."""
    middle = np.float32((2**bits - 1) / 2)
    stride = bits * 4

    @njit
    def read(packed: Any, scale: Any, group_words: Any, steps: Any) -> None:
        for w in range(steps.shape[0] // LANES):
            step = scale[w // group_words]
            planes = packed[w * stride : (w + 1) * stride].view(np.uint32)
            values = steps[w * LANES : (w + 1) * LANES]
            for j in range(LANES):
                code = np.uint32(0)
                for p in range(bits):
                    code |= np.uint32(((planes[p] >> np.uint32(j)) & np.uint32(1)) << np.uint32(p))
                values[j] = np.float32(step * np.float32(np.float32(np.int32(code)) - middle))

    return read


READERS = {bits: _reader(bits) for bits in (1, 2, 3, 4)}


def _adder(bits: int) -> Callable[..., None]:
    read = READERS[bits]

    def add(base: Any, packed: Any, scale: Any, group_size: int, out: Any) -> None:
        rows, width = base.shape
        is_streamed, line = is_to_be_streamed(out), empty_line(out)
        change = empty_change(1, width)[0]
        for r in range(rows):
            read(packed[r], scale[r], group_size // LANES, change)
            add_row(base[r], change, out[r], line, is_streamed)
        if is_streamed:
            fence()

    made: Callable[..., None] = compiled(add)
    return made


_ADDERS = {bits: _adder(bits) for bits in READERS}


def add_steps(base: Any, packed: Any, scale: Any, group_size: int, bits: int, out: Any) -> None:
    """out = base + scale[row, column // group_size] * step.

    packed: uint8[rows, words * bits * 4], words = ceil(width / 32). scale: float32[rows, groups].
    group_size: a multiple of 32. The product and the sum are rounded one after the other.
    """
    _ADDERS[bits](base, packed, scale, group_size, out)
