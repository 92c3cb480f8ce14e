"""The codecs by name."""

from collections.abc import Callable
from functools import lru_cache, partial

from merge_on_load.codecs.codec import Codec, CodecSettings
from merge_on_load.codecs.int8 import Int8Codec
from merge_on_load.codecs.int_steps import IntStepsCodec
from merge_on_load.codecs.lossless import LosslessCodec
from merge_on_load.codecs.lowrank import LowrankCodec
from merge_on_load.codecs.onebit import OnebitCodec
from merge_on_load.codecs.sparse import SparseCodec
from merge_on_load.codecs.topk import TopkCodec
from merge_on_load.errors import UnknownCodec

AUTO = "auto"  # of a layout: each tensor has a codec of its own
SAME = "same"  # nothing is stored: the tensor is the base's, bit for bit

_MAKERS: dict[str, Callable[[CodecSettings], Codec]] = {
    "lossless": LosslessCodec,
    "int8": Int8Codec,
    "int4": partial(IntStepsCodec, 4),
    "int3": partial(IntStepsCodec, 3),
    "int2": partial(IntStepsCodec, 2),
    "onebit": OnebitCodec,
    "sparse": SparseCodec,
    "topk": TopkCodec,
    "lowrank": LowrankCodec,
}
CODEC_NAMES = tuple(_MAKERS)


@lru_cache(1024)
def make_codec(name: str, settings: CodecSettings) -> Codec:
    """Raises UnknownCodec."""
    if name not in _MAKERS:
        raise UnknownCodec("no such codec", expected=CODEC_NAMES, found=name)
    return _MAKERS[name](settings)
