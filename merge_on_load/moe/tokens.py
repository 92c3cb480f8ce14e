"""Whether two models' token ids mean the same tokens, so that the MLPs of one fit the other."""

import json
from pathlib import Path
from typing import Any

from merge_on_load.errors import BadRecipe, ShapeMismatch
from merge_on_load.moe.dense import EMBEDDING, Dense

_FAST, _SLOW = "tokenizer.json", "tokenizer.model"


def check_vocabulary(base: Dense, expert: Dense) -> None:
    """Refuse an expert that was trained on another vocabulary.

    Tokens that one of the two added behind a vocabulary that both have are no difference, provided
    that both bring the tokenizer to tell it by. Raises BadRecipe, ShapeMismatch.
    """
    is_known = _has_same_tokenizer(base, expert)
    if is_known is False:
        raise BadRecipe(
            f"an expert's token ids mean other tokens than those of the base {base.source.path}",
            file=expert.source.path,
        )
    expected, found = base.shape(EMBEDDING), expert.shape(EMBEDDING)
    if expected[1:] != found[1:] or (is_known is None and expected != found):
        raise ShapeMismatch(
            f"an expert has another vocabulary than the base {base.source.path}",
            file=expert.source.path,
            tensor=EMBEDDING,
            expected=list(expected),
            found=list(found),
        )


def _has_same_tokenizer(base: Dense, expert: Dense) -> bool | None:
    """None where the files do not tell."""
    if base.source is expert.source:
        return True
    for name in (_FAST, _SLOW):
        files = [one.source.side_files.get(name) for one in (base, expert)]
        if files[0] is not None and files[1] is not None:
            if files[0].read_bytes() == files[1].read_bytes():
                return True
            if name == _FAST:
                return _vocabulary(files[0]) == _vocabulary(files[1])
    return None


def _vocabulary(file: Path) -> list[tuple[Any, ...]]:
    """Tokens with their ids, without added ones. Raises BadRecipe."""
    try:
        told = json.loads(file.read_bytes())["model"]["vocab"]
        if isinstance(told, dict):
            return sorted(told.items(), key=lambda one: (one[1], one[0]))
        return [(entry[0], number) for number, entry in enumerate(told)]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError) as error:
        raise BadRecipe(f"not a tokenizer: {error!r}", file=file) from error
