"""float16, bfloat16 and float32 tensors as numpy arrays.

The lossy arithmetic runs outside torch on threads of our own: torch's operators each start and
join a thread team, which was seen to cost ten times the work itself on a machine with busy cores.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.specs import row_count_and_width
from merge_on_load.tensors import raw_bytes

Float32 = npt.NDArray[np.float32]

FLOAT32_DTYPES = ("F16", "BF16", "F32")  # those whose every value float32 holds

_BLOCK_ELEMENTS = 1 << 18  # 1 MiB of float32: stays in cache and bounds temporaries


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """[row_count, width], all leading axes being rows: a view where the tensor is contiguous."""
    return tensor.detach().reshape(row_count_and_width(tuple(tensor.shape)))


def words(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A CPU tensor of FLOAT32_DTYPES as `kernels` wants it, a view: bfloat16 as uint16, float16 as
    int16, float32 as it is.
    """
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    elif tensor.dtype == torch.float16:
        tensor = tensor.view(torch.int16)
    array: npt.NDArray[Any] = tensor.numpy()
    return array


def widened(tensor: torch.Tensor) -> Float32:
    """A bfloat16 CPU tensor as float32, exactly; torch would start threads for a large one."""
    return (words(tensor).astype(np.uint32) << np.uint32(16)).view(np.float32)


def copy_words(source: torch.Tensor, out: torch.Tensor) -> None:
    """Copy to a tensor of the same shape and dtype, both contiguous; one thread on a CPU."""
    if out.device.type == "cpu":
        from merge_on_load import kernels  # here: numba is slow to import

        kernels.copy_bytes(raw_bytes(source), raw_bytes(out))
    else:
        out.copy_(source)


class Rows:
    """A tensor seen as a matrix [row_count, width], all leading axes being rows."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """tensor: CPU, one of FLOAT32_DTYPES."""
        rows = matrix(tensor)
        self.row_count, self.width = rows.shape
        self._is_bfloat16 = tensor.dtype == torch.bfloat16
        self._array = words(rows) if self._is_bfloat16 else rows.numpy()

    def read(self, block: slice) -> Float32:
        """Rows of the block as float32, exactly. May be a view: do not write to it."""
        if not self._is_bfloat16:
            return self._array[block].astype(np.float32, copy=False)
        bits = self._array[block].astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)


def subtract(first: Float32, second: Float32) -> Float32:
    """first - second; infinity and NaN come out without a warning, for the caller to refuse."""
    with np.errstate(over="ignore", invalid="ignore"):
        return first - second


def row_blocks(row_count: int, width: int, element_count: int = _BLOCK_ELEMENTS) -> Iterator[slice]:
    """Slices of rows that hold about so many elements each, or one row."""
    step = max(1, element_count // max(1, width))
    for begin in range(0, row_count, step):
        yield slice(begin, min(begin + step, row_count))
