"""The tokenizer's files beside tokenizer.json, kept in step with it."""

from collections.abc import Mapping
from pathlib import Path

from merge_on_load.vocabulary.draft import Draft
from merge_on_load.vocabulary.tokenizer_file import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    read_object,
    write_object,
)

_ADDED_NAME = "added_tokens.json"
_BESIDE = frozenset(
    {
        TOKENIZER_NAME,
        CONFIG_NAME,
        "special_tokens_map.json",
        _ADDED_NAME,
        "chat_template.jinja",
        "chat_template.json",
    }
)
# What tokenizers that are not of the tokenizers library read: the model proper, in other forms.
_OTHER_FORMS = frozenset(
    {
        "encoder.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "sentencepiece.model",
        "spiece.model",
        "spm.model",
        "tekken.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "vocab.bpe",
        "vocab.json",
        "vocab.txt",
    }
)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of this name belongs to a tokenizer, its chat template included."""
    return name in _BESIDE or _is_other_form(name)


def tokenizer_files(side_files: Mapping[str, Path], draft: Draft) -> dict[str, bytes]:
    """The result's, by name. side_files: of the model that owns the tokenizer.

    Other forms of the model proper are left out where it grew: they cannot be made here.
    """
    files = {
        name: path.read_bytes()
        for name, path in side_files.items()
        if name in _BESIDE or (_is_other_form(name) and not draft.has_new_pieces)
    }
    files[TOKENIZER_NAME] = draft.content()
    if not draft.is_changed:
        return files
    config = read_object(side_files.get(CONFIG_NAME))
    if "added_tokens_decoder" in config:
        decoder = {
            str(number): {"content": text, **draft.added[text]}
            for number, text in sorted((draft.ids[text], text) for text in draft.added)
        }
        files[CONFIG_NAME] = write_object({**config, "added_tokens_decoder": decoder})
    if _ADDED_NAME in files:
        told = read_object(side_files[_ADDED_NAME])
        files[_ADDED_NAME] = write_object({**told, **draft.new_added})
    return files


def _is_other_form(name: str) -> bool:
    return name in _OTHER_FORMS or name.endswith(".tiktoken")
