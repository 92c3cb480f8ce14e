"""A recipe's `tokenizer` and its models -> the result's vocabulary."""

import ctypes
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_on_load.recipes.document import Token, Tokenizer, TokenPlace
from merge_on_load.recipes.references import Reference
from merge_on_load.vocabulary.draft import NEW_TOKEN, Draft
from merge_on_load.vocabulary.files import is_tokenizer_file, tokenizer_files
from merge_on_load.vocabulary.names import row_count
from merge_on_load.vocabulary.rearranged import Rearranged
from merge_on_load.vocabulary.rows import Member, Rows, find_rows, place_of
from merge_on_load.vocabulary.token_ids import Renumbering
from merge_on_load.vocabulary.tokenizer_file import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    Flags,
    TokenizerFile,
    read_tokenizer,
)

if TYPE_CHECKING:
    from merge_on_load.recipes.sources import Source


@dataclass(frozen=True, eq=False, slots=True)
class Vocabulary:
    """The result's tokens, and where every model's rows for them come from.

    size: rows of the result's embeddings, the padding included. files: the result's tokenizer
    files, the chat template that belongs to them, and generation_config.json where it changes.
    dropped: side files of the primary model (the base, or the first) that the result must not have:
    another tokenizer's, or forms of it that cannot be brought up to date. config: changes to the
    primary's config.json, a `text_config` among them to that of it.
    """

    size: int
    files: Mapping[str, bytes]
    dropped: frozenset[str]
    config: Mapping[str, Any]
    rows: Rows
    models: Mapping[Reference, "Source"]
    directory: Path | None

    def revised(self, reference: Reference, source: "Source") -> "Source":
        """The model with the result's rows in its embeddings and head; itself if it has them.

        source: what the vocabulary was made with under this reference, or the same tensors.
        Raises BadRecipe, MissingTensor, ShapeMismatch, UnsupportedDtype where rows do not fit.
        """
        place = place_of(reference, list(self.models), "a model whose vocabulary is asked for")
        if row_count(source) == self.size and self.rows.is_as_before(place):
            return source
        sources = list(self.models.values())
        sources[place] = source
        return Rearranged(place, self.rows, sources, self.directory)


def make_vocabulary(
    told: Tokenizer,
    base: Reference | None,
    models: Mapping[Reference, "Source"],
    *,
    directory: Path | None = None,
) -> Vocabulary:
    """Read all models' tokenizers and bring them together; no tensor is read.

    models: all of the recipe's, the base first, and then in the recipe's order: a union takes
    tokens in this order. directory: of the files that rearranged matrices are mapped from, as large
    as these in all; None: where the system has its temporary ones.
    Raises BadRecipe, MissingTensor (a model without token embeddings).
    """
    try:
        return _made(told, base, models, directory)
    finally:
        _give_back_memory()


def _made(
    told: Tokenizer,
    base: Reference | None,
    models: Mapping[Reference, "Source"],
    directory: Path | None,
) -> Vocabulary:
    members = _members(models)
    base_place = None if base is None else place_of(base, list(models), "base_model")
    owner = _owner(told, base_place, list(models))
    draft = Draft(members[owner].tokenizer)
    if told.source == "union":
        for one in members:
            draft.join(one.tokenizer)
    for text, token in told.tokens.items():
        if text not in draft.ids:
            draft.append(text, _flags(text, token, members))
    size = _padded(max(draft.ids.values()) + 1, told.pad_to_multiple_of)
    rows = find_rows(draft.ids, size, members, base_place, told.tokens)
    primary = members[0 if base_place is None else base_place]
    renumbering = Renumbering(primary, members[owner], draft.ids)
    files = tokenizer_files(members[owner].source.side_files, draft)
    dropped = {
        name for name in primary.source.side_files if is_tokenizer_file(name) and name not in files
    }
    return Vocabulary(
        size,
        files | renumbering.generation_files(),
        frozenset(dropped),
        renumbering.config(size),
        rows,
        dict(models),  # and not the tokenizers, which are large
        directory,
    )


def _members(models: Mapping[Reference, "Source"]) -> tuple[Member, ...]:
    """Tokenizers that are the same bytes are read once."""
    read: dict[str | None, TokenizerFile] = {}
    members = []
    for reference, source in models.items():
        digest = _digest(source)
        if digest not in read:
            read[digest] = read_tokenizer(source)
        members.append(Member(reference, source, read[digest], row_count(source)))
    return tuple(members)


def _digest(source: "Source") -> str | None:
    """Of what a tokenizer is read from."""
    if TOKENIZER_NAME not in source.side_files:
        return None
    digest = hashlib.sha256()
    for name in (TOKENIZER_NAME, CONFIG_NAME):
        if file := source.side_files.get(name):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _owner(told: Tokenizer, base: int | None, references: Sequence[Reference]) -> int:
    """The place of the model whose numbering the result has.

    `base` without a base_model is the first model's. (mergekit 0.1.5 then takes one of the models,
    not the same one in every run.)
    """
    if isinstance(told.source, Reference):
        return place_of(told.source, references, "the tokenizer's source")
    return base or 0


def _flags(text: str, token: Token, members: Sequence[Member]) -> Flags:
    """Of a token that no union brought: as its source has it, or else the first that has it."""
    told = token.source.model if isinstance(token.source, TokenPlace) else token.source
    first = [one for one in members if one.reference == told]
    for one in (*first, *members):
        if text in one.tokenizer.added:
            return one.tokenizer.added[text]
    return NEW_TOKEN


def _padded(count: int, multiple: int | None) -> int:
    return count if multiple is None else -(-count // multiple) * multiple


def _give_back_memory() -> None:
    """What was freed, to the system: the C library keeps hundreds of MiB of read tokenizers."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
