"""Numbers of tokens in config.json and generation_config.json, in the result's numbering."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merge_on_load.vocabulary.tokenizer_file import read_object, write_object

if TYPE_CHECKING:
    from merge_on_load.vocabulary.rows import Member

GENERATION_NAME = "generation_config.json"
_KEY_ENDS = ("_token_id", "_token_index")  # of images, some say index
_MAIN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True)
class Renumbering:
    """primary: the model whose config the result has. owner: the one whose tokenizer it has.

    The owner's numbers stay what they are; so what its config tells goes before the primary's,
    whose numbers are looked up by the tokens they mean. A number of no token of the result is left
    out: None, or absent from a list. ids: token -> number in the result.
    """

    primary: "Member"
    owner: "Member"
    ids: Mapping[str, int]

    def config(self, size: int) -> dict[str, Any]:
        """Changes to config.json; in `text_config`, to that. size: rows of the embeddings."""
        config = self.primary.source.config
        if not config:
            return {}
        text = config.get("text_config")
        changes = self._changes(config, self.owner.source.config)
        inner: dict[str, Any] = {}
        if isinstance(text, dict):
            owner_text = self.owner.source.config.get("text_config")
            inner = self._changes(text, owner_text if isinstance(owner_text, dict) else {})
            if "vocab_size" in text:
                inner["vocab_size"] = size
        if "vocab_size" in config or "vocab_size" not in inner:
            changes["vocab_size"] = size
        if inner:
            changes["text_config"] = inner
        return changes

    def generation_files(self) -> dict[str, bytes]:
        """generation_config.json where the primary has one that changes; else nothing."""
        file = self.primary.source.side_files.get(GENERATION_NAME)
        if file is None:
            return {}
        told = read_object(file)
        of_owner = read_object(self.owner.source.side_files.get(GENERATION_NAME))
        changes = self._changes(told, {**self.owner.source.config, **of_owner})
        return {GENERATION_NAME: write_object({**told, **changes})} if changes else {}

    def _changes(self, config: Mapping[str, Any], of_owner: Mapping[str, Any]) -> dict[str, Any]:
        known = set(self.ids.values())
        texts = {number: text for text, number in self.primary.tokenizer.ids.items()}

        def kept(number: int) -> int | None:  # the owner's
            return number if number in known or number < 0 else None

        def moved(number: int) -> int | None:  # the primary's
            return number if number < 0 else self.ids.get(texts.get(number, ""))

        keys = [key for key in config if key.endswith(_KEY_ENDS)]
        if self.owner is self.primary:
            found = {key: _each(config[key], kept) for key in keys}
        else:
            keys += [key for key in _MAIN_KEYS if key in of_owner and key not in config]
            found = {key: _each(of_owner.get(key), kept) for key in keys}
            for key, number in found.items():
                if number is None:
                    found[key] = _each(config.get(key), moved)
        return {key: number for key, number in found.items() if number != config.get(key)}


def _each(told: Any, moved: Callable[[int], int | None]) -> Any:
    """told: a number, or a list of them."""
    if isinstance(told, list):
        found = [moved(one) if isinstance(one, int) else one for one in told]
        return [one for one in found if one is not None] or None
    return moved(told) if isinstance(told, int) else None
