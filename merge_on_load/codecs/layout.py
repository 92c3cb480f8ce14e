"""Which codec, at which settings, stores which tensor of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from merge_on_load.codecs.codec import CodecSettings
from merge_on_load.codecs.making import make_codec
from merge_on_load.errors import UnknownCodec
from merge_on_load.floats import FLOAT32_DTYPES
from merge_on_load.specs import TensorSpec

# Rows of these are looked up or compared one by one.
_EMBEDDING_WORDS = ("embed_tokens", "embed_in", "embed_out", "wte", "wpe", "lm_head", "embeddings")
# What stores embeddings where a caller does not say, by the matrices' codec; else the same does.
# One bit a weight costs too much there, and seeded places would leave next to nothing of a row.
_EMBEDDINGS = {"onebit": "int8", "sparse": "int4"}


@dataclass(frozen=True)
class Coding:
    """A codec and its settings."""

    codec: str
    settings: CodecSettings = field(default_factory=CodecSettings)

    @classmethod
    def parse(cls, text: str, usual: CodecSettings | None = None) -> Coding:
        """Such as "sparse:keep=32,bits=2". usual: what holds where the text tells nothing.

        Raises UnknownCodec.
        """
        usual = usual or CodecSettings()
        codec, _, told = text.partition(":")
        given = {}
        for setting in filter(None, told.split(",")):
            name, _, value = setting.partition("=")
            if not value.lstrip("-").isdigit():
                raise UnknownCodec(f"{name} must be a whole number", found=setting)
            given[name.strip()] = int(value)
        CodecSettings.from_dict(given)  # refuses a name or value that cannot be
        settings = replace(usual, **given)
        make_codec(codec, settings)  # refuses what it cannot be
        return cls(codec, settings)

    def __str__(self) -> str:
        usual = asdict(CodecSettings())
        told = (
            f"{name}={value}"
            for name, value in asdict(self.settings).items()
            if value != usual[name]
        )
        return ":".join(filter(None, (self.codec, ",".join(told))))


@dataclass(frozen=True)
class Layout:
    """matrices, embeddings: what stores them; embeddings are token and position embeddings and the
    output head.
    """

    matrices: Coding
    embeddings: Coding

    @classmethod
    def parse(
        cls, matrices: str, embeddings: str | None = None, usual: CodecSettings | None = None
    ) -> Layout:
        """See `Coding.parse`. embeddings: None for what suits the matrices' codec."""
        coding = Coding.parse(matrices, usual)
        if embeddings is not None:
            return cls(coding, Coding.parse(embeddings, usual))
        other = _EMBEDDINGS.get(coding.codec)
        return cls(coding, Coding(other, coding.settings) if other else coding)

    def coding(self, name: str, base: TensorSpec, tuned: TensorSpec) -> Coding:
        """Of one tensor. Vectors (norms, biases) and what is not float32, float16 or bfloat16 stay
        lossless.
        """
        if not is_lossy(base, tuned):
            return Coding("lossless", CodecSettings(zstd_level=self.matrices.settings.zstd_level))
        return self.embeddings if is_embedding(name) else self.matrices

    @property
    def codec(self) -> str:
        """What the whole delta is called after."""
        return self.matrices.codec


def is_lossy(base: TensorSpec, tuned: TensorSpec) -> bool:
    """Whether a lossy codec may store it."""
    return len(tuned.shape) >= 2 and {base.dtype, tuned.dtype} <= set(FLOAT32_DTYPES)


def is_embedding(name: str) -> bool:
    """Whether it is a token or position embedding, or an output head, by its name."""
    return any(word in name for word in _EMBEDDING_WORDS)
