"""A model's tokenizer.json: which tokens it has, and their numbers.

The file is that of the tokenizers library, documented with it; what is read
here is its `model.vocab`, `model.merges` and `added_tokens`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_on_load.errors import BadRecipe

if TYPE_CHECKING:
    from merge_on_load.recipes.sources import Source

TOKENIZER_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

Flags = Mapping[str, bool]  # how an added token is looked for in a text
Merge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """What two tokenizers have in common where one's tokens mean the same in the other.

    model: BPE, Unigram, WordPiece or WordLevel. alphabet: "bytes" where every byte of a text is
    written as one printable character, else "characters". prefix, suffix: what marks a piece that
    continues a word, and one that ends it.
    """

    model: str
    alphabet: str
    prefix: str
    suffix: str

    def __str__(self) -> str:
        marks = "".join(f", {one!r}" for one in (self.prefix, self.suffix) if one)
        return f"{self.model} of {self.alphabet}{marks}"


@dataclass(frozen=True, eq=False, slots=True)
class TokenizerFile:
    """A tokenizer.json, read.

    told: the whole file. ids: token -> number, added tokens included. added: the flags of tokens
    that are looked for in a text before anything else is done to it. beside: added tokens that only
    tokenizer_config.json has.
    """

    path: Path
    content: bytes
    told: Mapping[str, Any]
    kind: Kind
    ids: Mapping[str, int]
    added: Mapping[str, Flags]
    beside: frozenset[str]

    @property
    def model(self) -> Mapping[str, Any]:
        """The section of that name."""
        found: Mapping[str, Any] = self.told["model"]
        return found

    @property
    def vocab(self) -> dict[str, int]:
        """Token -> number, without the tokens that are only added ones."""
        return _vocab(self.model)

    @property
    def scores(self) -> dict[str, float]:
        """Of Unigram's pieces, their log probabilities; {} for other models."""
        if self.kind.model != "Unigram":
            return {}
        return {piece: float(score) for piece, score in self.model["vocab"]}

    def merges(self) -> Iterator[Merge]:
        """Of BPE, in their order; of other models none. Raises BadRecipe for what is no pair."""
        for one in self.model.get("merges") or ():
            pair = one.split(" ") if isinstance(one, str) else one
            if not isinstance(pair, list) or [type(part) for part in pair] != [str, str]:
                raise BadRecipe("a merge that is not of two tokens", file=self.path, found=one)
            yield pair[0], pair[1]


def read_tokenizer(source: "Source") -> TokenizerFile:
    """A model's tokenizer. Raises BadRecipe: none, not one of the tokenizers library, malformed."""
    file = source.side_files.get(TOKENIZER_NAME)
    if file is None:
        raise BadRecipe(
            f"no {TOKENIZER_NAME} here, by which vocabularies are brought together; a tokenizer "
            "that has none can be saved with one by transformers",
            file=source.path,
            found=", ".join(sorted(source.side_files)) or None,
        )
    content = file.read_bytes()
    try:
        told = json.loads(content)
        beside = _told_beside(source.side_files.get(CONFIG_NAME))
        return _parsed(file, content, told, beside)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadRecipe(f"not a tokenizer that is known here: {error!r}", file=file) from error


def _parsed(
    file: Path, content: bytes, told: Mapping[str, Any], beside: Mapping[str, Any]
) -> TokenizerFile:
    ids = _vocab(told["model"])
    added: dict[str, Flags] = {}
    for one in told.get("added_tokens") or ():
        ids[str(one["content"])] = int(one["id"])
        added[str(one["content"])] = _flags(one)
    taken = set(ids.values())
    unknown = {}
    for number, one in beside.items():
        text = str(one["content"])
        if text in ids:
            continue
        if int(number) in taken:
            raise ValueError(f"{CONFIG_NAME} has {text!r} where another token is: {number}")
        unknown[text] = int(number)
        added[text] = _flags(one)
    if not ids or min(ids.values()) < 0:
        raise ValueError("no tokens, or one with a negative number")
    kind = _kind(told)
    return TokenizerFile(file, content, told, kind, ids | unknown, added, frozenset(unknown))


def _told_beside(file: Path | None) -> Mapping[str, Any]:
    """tokenizer_config.json's added tokens by number, of which transformers adds those it lacks."""
    found: Mapping[str, Any] = read_object(file).get("added_tokens_decoder") or {}
    return found


def read_object(file: Path | None) -> dict[str, Any]:
    """A JSON file that holds a mapping; {} for no file. Raises BadRecipe."""
    if file is None:
        return {}
    return parse_object(file.read_bytes(), file)


def parse_object(content: bytes, file: Path | str) -> dict[str, Any]:
    """file: for errors. Raises BadRecipe for what is no JSON, and for what is no mapping."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRecipe(f"not JSON: {error}", file=file) from error
    if not isinstance(told, dict):
        raise BadRecipe("not a mapping", file=file, found=type(told).__name__)
    return told


def write_object(told: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """JSON as it stands in a file. indent: None is much faster for what is large."""
    return (json.dumps(told, ensure_ascii=False, indent=indent) + "\n").encode()


def _vocab(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model["vocab"]
    if isinstance(vocab, list):
        return {str(piece): number for number, (piece, _) in enumerate(vocab)}
    return {str(text): int(number) for text, number in vocab.items()}


def _flags(told: Mapping[str, Any]) -> Flags:
    return {name: bool(told.get(name, False)) for name in _FLAGS}


def _kind(told: Mapping[str, Any]) -> Kind:
    model = told["model"]
    parts = (told.get("pre_tokenizer"), told.get("decoder"), told.get("normalizer"))
    return Kind(
        str(model.get("type") or _model_type(model)),
        "bytes" if any("ByteLevel" in _types(part) for part in parts) else "characters",
        model.get("continuing_subword_prefix") or "",
        model.get("end_of_word_suffix") or "",
    )


def _model_type(model: Mapping[str, Any]) -> str:
    """What old files do not say."""
    if "merges" in model:
        return "BPE"
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def _types(part: Any) -> set[str]:
    """The types of a normalizer, pre-tokenizer or decoder and of those that it is a sequence of."""
    if not isinstance(part, dict):
        return set()
    found = {str(part.get("type"))}
    for key in ("normalizers", "pretokenizers", "decoders"):
        for one in part.get(key) or ():
            found |= _types(one)
    return found
