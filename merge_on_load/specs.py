"""What a tensor is without its data: dtype and shape, as a safetensors header tells them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_on_load.errors import UnsupportedDtype

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}


@dataclass(frozen=True)
class TensorSpec:
    """dtype (a safetensors name such as "BF16") and shape of one tensor.

    Raises UnsupportedDtype for a dtype that torch cannot hold one element per address.
    """

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_BYTES:
            raise UnsupportedDtype("dtype is not supported", found=self.dtype)

    @property
    def torch_dtype(self) -> "torch.dtype":
        from merge_on_load.tensors import TORCH_DTYPES  # here: torch is slow to import

        return TORCH_DTYPES[self.dtype]

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    @property
    def parameter_count(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.parameter_count * self.item_bytes

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def row_count_and_width(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix: all leading axes are rows."""
    width = shape[-1] if shape else 1
    return math.prod(shape[:-1]), width
