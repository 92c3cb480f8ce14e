"""How a recipe names a model, and where that model lies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from merge_on_load.errors import BadRecipe

Fetch = Callable[[str, str | None], Path]  # a model's name and revision -> its directory


@dataclass(frozen=True, slots=True)
class Reference:
    """A model: `path`, `path@revision`, `path+adapter`, or mergekit's mapping of the same.

    path: a directory, the name of an earlier document, or a model of the Hugging Face Hub. adapter:
    a LoRA adapter, or a delta of ours, that is applied to it first.
    """

    path: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    @classmethod
    def parse(cls, told: object) -> "Reference":
        """Raises ValueError."""
        if isinstance(told, str) and told:
            return cls._of_text(told)
        if isinstance(told, dict) and "model" in told and not set(told) - {"model", "lora"}:
            path, revision = _of_mapping(told["model"])
            lora = told.get("lora")
            adapter, adapter_revision = (None, None) if lora is None else _of_mapping(lora)
            return cls(path, revision, adapter, adapter_revision)
        if isinstance(told, dict) and "path" in told:
            return cls(*_of_mapping(told))
        raise ValueError(f"a model is named by its path, not by {told!r}")

    @classmethod
    def _of_text(cls, text: str) -> "Reference":
        if Path(text).exists():  # a directory whose name has a plus or an at sign
            return cls(text)
        model, plus, adapter = text.partition("+")
        if plus and (not adapter or "+" in adapter):
            raise ValueError(f"a model and one adapter, `MODEL+ADAPTER`, not {text!r}")
        return cls(*_with_revision(model), *(_with_revision(adapter) if plus else (None, None)))

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        adapter_at = f"@{self.adapter_revision}" if self.adapter_revision else ""
        return f"{self.path}{at}" + (f"+{self.adapter}{adapter_at}" if self.adapter else "")


def locate(path: str, revision: str | None, recipe: Path, fetch: Fetch | None = None) -> Path:
    """The directory of a model: beside the recipe, or below the working directory, or fetched.

    fetch: gives the directory of a model that is neither, from its name and revision; it may raise
    BadRecipe. None: nothing is fetched. Raises BadRecipe where the model is nowhere.
    """
    for found in (recipe.parent / path, Path(path)):
        if found.is_dir():
            if revision is not None:
                raise BadRecipe("a directory has no revisions", file=found, found=revision)
            return found
    if fetch is None or path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise BadRecipe("no such directory", file=recipe, found=path)
    try:
        return fetch(path, revision)
    except BadRecipe as error:
        raise error.located(file=recipe) from error


def _with_revision(text: str) -> tuple[str, str | None]:
    path, at, revision = text.partition("@")
    if not path or (at and not revision):
        raise ValueError(f"a model is `PATH` or `PATH@REVISION`, not {text!r}")
    return path, revision or None


def _of_mapping(told: object) -> tuple[str, str | None]:
    if isinstance(told, str) and told:
        return _with_revision(told)
    if isinstance(told, Mapping) and not set(told) - {"path", "revision"}:
        path, revision = told.get("path"), told.get("revision")
        if isinstance(path, str) and path and isinstance(revision, str | None):
            return path, revision
    raise ValueError(f"`path`, and `revision` where there is one, not {told!r}")
