"""Specs and bytes of torch's tensors."""

import numpy as np
import torch

from merge_on_load.errors import UnsupportedDtype
from merge_on_load.hashing import digest_of
from merge_on_load.specs import Bytes, TensorSpec

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


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """dtype and shape of a tensor. Raises UnsupportedDtype."""
    if tensor.dtype not in _NAMES:
        raise UnsupportedDtype("dtype is not supported", found=tensor.dtype)
    return TensorSpec(_NAMES[tensor.dtype], tuple(tensor.shape))


def raw_bytes(tensor: torch.Tensor) -> Bytes:
    """The bytes of a CPU tensor in row-major order: uint8[size_bytes], a view where possible."""
    if tensor.numel() == 0:  # torch cannot view an empty tensor of another element size
        return np.empty(0, np.uint8)
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    array: Bytes = flat.numpy()
    return array


def tensor_digest(tensor: torch.Tensor) -> str:
    """BLAKE3 of the bytes of a CPU tensor, hex."""
    return digest_of(raw_bytes(tensor))


def from_bytes(raw: Bytes, spec: TensorSpec) -> torch.Tensor:
    """A tensor of these bytes, [size_bytes], writable, without a copy: what `raw_bytes` undoes."""
    if raw.size == 0:
        return torch.empty(spec.shape, dtype=spec.torch_dtype)
    return torch.from_numpy(raw).view(spec.torch_dtype).reshape(spec.shape)
