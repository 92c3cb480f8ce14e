"""Merge recipes: mergekit's YAML, planned from headers, run in bounded memory.

from pathlib import Path
from merge_on_load.recipes import merge

merge(Path("recipe.yaml"), Path("merged"))     # writes a Hugging Face checkpoint
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merge_on_load.recipes.merging import Merged, merge

__all__ = ["Merged", "merge"]


def __getattr__(name: str) -> object:
    """Resolve a public name on first use: a submodule is imported without the others."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.merging"), name)
