"""What a tensor is without its data: dtype and shape, as a safetensors header tells them."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.errors import UnsupportedDtype

Bytes = npt.NDArray[np.uint8]

TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """dtype (a safetensors name such as "BF16") and shape of one tensor.

    Raises UnsupportedDtype for a dtype that torch cannot hold one element per address.
    """

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in TORCH_DTYPES:
            raise UnsupportedDtype("dtype is not supported", found=self.dtype)

    @property
    def torch_dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self.dtype]

    @property
    def parameter_count(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.parameter_count * self.torch_dtype.itemsize

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "TensorSpec":
        if tensor.dtype not in _NAMES:
            raise UnsupportedDtype("dtype is not supported", found=tensor.dtype)
        return cls(_NAMES[tensor.dtype], tuple(tensor.shape))

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def row_count_and_width(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix: all leading axes are rows."""
    width = shape[-1] if shape else 1
    return math.prod(shape[:-1]), width


def raw_bytes(tensor: torch.Tensor) -> Bytes:
    """The bytes of a CPU tensor in row-major order: uint8[size_bytes], a view where possible."""
    if tensor.numel() == 0:  # torch cannot view an empty tensor of another element size
        return np.empty(0, np.uint8)
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    array: Bytes = flat.numpy()
    return array
