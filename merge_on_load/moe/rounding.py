"""float32 <-> the words of a tensor, in numpy."""

import numpy as np
import numpy.typing as npt

from merge_on_load.specs import Bytes

Float32 = npt.NDArray[np.float32]


def to_bytes(values: Float32, dtype: str) -> Bytes:
    """Finite values rounded to the nearest, ties to even: the bytes in row-major order.

    dtype: BF16, F16 or F32.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if dtype == "BF16":
        bits = flat.view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16).view(np.uint8)
    return flat.astype({"F16": np.float16, "F32": np.float32}[dtype]).view(np.uint8)


def to_float32(raw: Bytes, dtype: str) -> Float32:
    """Exactly; flat. dtype: BF16, F16 or F32."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    found: Float32 = raw.view({"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32)
    return found
