"""The codecs, one file each, and which of them stores which tensor."""

from merge_on_load.codecs.codec import Codec, CodecSettings, Payload, cut
from merge_on_load.codecs.layout import Coding, Layout
from merge_on_load.codecs.making import AUTO, CODEC_NAMES, SAME, make_codec

__all__ = [
    "AUTO",
    "CODEC_NAMES",
    "SAME",
    "Codec",
    "CodecSettings",
    "Coding",
    "Layout",
    "Payload",
    "cut",
    "make_codec",
]
