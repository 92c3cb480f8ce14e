"""Prompts and their token ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_on_load.errors import BadRecipe
from merge_on_load.recipes.sources import Source

_FAST = "tokenizer.json"
_TOKENIZER_FILES = (_FAST, "tokenizer.model", "vocab.json", "tekken.json")


@dataclass(frozen=True, slots=True)
class Prompts:
    """What an expert is for, and what it is not. expert: what errors call it."""

    expert: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


def tokenizer_directory(base: Source) -> Path:
    """Where a model's tokenizer lies. Raises BadRecipe."""
    for name in _TOKENIZER_FILES:
        if name in base.side_files:
            return base.side_files[name].parent
    raise BadRecipe(
        "prompts need the base model's tokenizer, which is not there",
        file=base.path,
        expected=" or ".join(_TOKENIZER_FILES),
    )


def tokenize(directory: Path, texts: Sequence[str], row_count: int) -> list[list[int]]:
    """Token ids of each text, with what the tokenizer puts around a prompt.

    row_count: how many tokens have an embedding. Raises BadRecipe: a text without tokens, or with
    one that has no embedding.
    """
    encode = _encoder(directory)
    listed = [encode(one) for one in texts]
    for text, ids in zip(texts, listed, strict=True):
        if not ids:
            raise BadRecipe("a prompt without tokens", file=directory, found=repr(text))
        if max(ids) >= row_count:
            raise BadRecipe(
                f"the tokenizer knows tokens without an embedding, as in {text!r}",
                file=directory,
                expected=f"up to {row_count - 1}",
                found=max(ids),
            )
    return listed


def _encoder(directory: Path) -> Callable[[str], list[int]]:
    """tokenizer.json as it stands; what transformers makes of other files, where there is none."""
    if (directory / _FAST).is_file():
        from tokenizers import Tokenizer  # here: seldom needed

        fast = Tokenizer.from_file(str(directory / _FAST))
        fast.no_truncation()
        fast.no_padding()
        return lambda text: list(fast.encode(text).ids)
    from transformers import AutoTokenizer  # here: slow to import

    slow: Any = AutoTokenizer.from_pretrained(directory)
    return lambda text: list(slow.encode(text))
