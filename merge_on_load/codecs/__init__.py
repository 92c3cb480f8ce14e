"""The codecs by name, and which of them a pack codec gives to which tensor."""

from collections.abc import Callable
from functools import lru_cache, partial

from merge_on_load.codecs.codec import Codec, CodecSettings, Payload, cut
from merge_on_load.codecs.int8 import Int8Codec
from merge_on_load.codecs.int_steps import IntStepsCodec
from merge_on_load.codecs.lossless import LosslessCodec
from merge_on_load.codecs.lowrank import LowrankCodec
from merge_on_load.codecs.onebit import OnebitCodec
from merge_on_load.codecs.sparse import SparseCodec
from merge_on_load.errors import UnknownCodec
from merge_on_load.floats import FLOAT32_DTYPES
from merge_on_load.specs import TensorSpec

SAME = "same"  # nothing is stored: the tensor is the base's, bit for bit

_MAKERS: dict[str, Callable[[CodecSettings], Codec]] = {
    "lossless": LosslessCodec,
    "int8": Int8Codec,
    "int4": partial(IntStepsCodec, 4),
    "int3": partial(IntStepsCodec, 3),
    "int2": partial(IntStepsCodec, 2),
    "onebit": OnebitCodec,
    "sparse": SparseCodec,
    "lowrank": LowrankCodec,
}
CODEC_NAMES = tuple(_MAKERS)

# Rows of these are looked up or compared one by one, so one bit per weight costs too much there.
_EMBEDDING_WORDS = ("embed_tokens", "embed_in", "embed_out", "wte", "wpe", "lm_head", "embeddings")


@lru_cache(1024)
def make_codec(name: str, settings: CodecSettings) -> Codec:
    """Raises UnknownCodec."""
    if name not in _MAKERS:
        raise UnknownCodec("no such codec", expected=CODEC_NAMES, found=name)
    return _MAKERS[name](settings)


def codec_for(pack_codec: str, name: str, base: TensorSpec, tuned: TensorSpec) -> str:
    """The codec that packing with `pack_codec` uses for one tensor.

    Vectors (norms, biases) and anything but float32, float16, bfloat16 stay lossless; with
    onebit, embeddings and output heads get int8. Raises UnknownCodec.
    """
    if pack_codec not in _MAKERS:
        raise UnknownCodec("no such codec", expected=CODEC_NAMES, found=pack_codec)
    is_matrix = len(tuned.shape) >= 2
    is_lossy_dtype = base.dtype in FLOAT32_DTYPES and tuned.dtype in FLOAT32_DTYPES
    if not (is_matrix and is_lossy_dtype):
        return "lossless"
    if pack_codec == "onebit" and any(word in name for word in _EMBEDDING_WORDS):
        return "int8"
    return pack_codec


__all__ = [
    "CODEC_NAMES",
    "SAME",
    "Codec",
    "CodecSettings",
    "Payload",
    "codec_for",
    "cut",
    "make_codec",
]
