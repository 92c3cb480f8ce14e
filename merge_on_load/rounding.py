"""Words of one dtype as float32, and back with one rounding, to nearest, ties to even. No torch."""

from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Words = npt.NDArray[Any]

FLOATS = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def to_float32(words: Words, dtype: str) -> Float32:
    """words: as `as_words` gives them. Exact."""
    if dtype == "BF16":
        bits = words.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return words.view(FLOATS[dtype]).astype(np.float32, copy=False)


def from_float32(values: Float32, dtype: str) -> Words:
    """As words of the dtype. values: contiguous. What is too large becomes infinity."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        odd = (bits >> 16) & 1
        rounded: Words = ((bits + (odd + 0x7FFF)) >> 16).astype(np.uint16)
        return rounded
    with np.errstate(over="ignore"):
        made = values.astype(FLOATS[dtype])
    return made.view(f"u{made.itemsize}")


def as_words(raw: npt.NDArray[np.uint8], item_bytes: int) -> Words:
    """The bytes of a tensor as unsigned words of its elements' size, a view."""
    return raw.view(f"u{item_bytes}")
