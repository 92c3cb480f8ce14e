"""float16, bfloat16 and float32 tensors as float32 numpy blocks, and back.

The lossy arithmetic runs in numpy on threads of our own: torch's operators each start and join a
thread team, which was seen to cost ten times the work itself on a machine with busy cores.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.specs import row_count_and_width

Float32 = npt.NDArray[np.float32]

FLOAT32_DTYPES = ("F16", "BF16", "F32")  # those whose every value float32 holds

_BLOCK_ELEMENTS = 1 << 18  # 1 MiB of float32: stays in cache and bounds temporaries


class Rows:
    """A tensor seen as a matrix [row_count, width], all leading axes being rows."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """tensor: CPU, one of FLOAT32_DTYPES; contiguous if it will be written to."""
        self.row_count, self.width = row_count_and_width(tuple(tensor.shape))
        rows = tensor.detach().contiguous().view(self.row_count, self.width)
        self._is_bfloat16 = tensor.dtype == torch.bfloat16
        self._array: npt.NDArray[Any] = (
            rows.view(torch.uint16).numpy() if self._is_bfloat16 else rows.numpy()
        )

    def read(self, block: slice) -> Float32:
        """Rows of the block as float32, exactly. May be a view: do not write to it."""
        if not self._is_bfloat16:
            return self._array[block].astype(np.float32, copy=False)
        bits = self._array[block].astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)

    def write(self, block: slice, values: Float32) -> None:
        """Round float32 values once, to nearest even, into the block. NaN is not for here."""
        if not self._is_bfloat16:
            with np.errstate(over="ignore"):
                self._array[block] = values
            return
        bits = values.view(np.uint32)
        odd = (bits >> 16) & 1
        self._array[block] = (bits + (odd + 0x7FFF)) >> 16


def subtract(first: Float32, second: Float32) -> Float32:
    """first - second; infinity and NaN come out without a warning, for the caller to refuse."""
    with np.errstate(over="ignore", invalid="ignore"):
        return first - second


def row_blocks(row_count: int, width: int) -> Iterator[slice]:
    """Slices of rows that hold about 1 MiB of float32 each, or one row."""
    step = max(1, _BLOCK_ELEMENTS // max(1, width))
    for begin in range(0, row_count, step):
        yield slice(begin, min(begin + step, row_count))
