"""Tensors for codecs, and what comes of them."""

import numpy as np
import torch
from hypothesis import strategies as st

from merge_on_load.codecs import CODEC_NAMES, CodecSettings, make_codec
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import TORCH_DTYPES, raw_bytes, spec_of

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)
LOSSY = ("BF16", "F16", "F32")
LOSSY_CODECS = tuple(name for name in CODEC_NAMES if name != "lossless")


def random_bits(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    """Any bit pattern: NaNs with payloads, denormals, -0.0, infinities."""
    spec = TensorSpec(dtype, shape)
    data = np.random.default_rng(seed).integers(0, 256, spec.size_bytes, dtype=np.uint8)
    if dtype == "BOOL":
        data &= 1
    tensor = torch.empty(shape, dtype=spec.torch_dtype)
    raw_bytes(tensor)[:] = data
    return tensor


def small_floats(shape: tuple[int, ...], dtype: str, seed: int, size: float = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=random) * size).to(TORCH_DTYPES[dtype])


def round_trip(codec: str, base: torch.Tensor, tuned: torch.Tensor, **given: int) -> torch.Tensor:
    made = make_codec(codec, CodecSettings(**given))
    return made.decode(base, made.encode("w", base, tuned), spec_of(tuned))
