"""Models of the Hugging Face Hub, for commands that may fetch them."""

from __future__ import annotations

from pathlib import Path

from merge_on_load.errors import BadRecipe

_WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


def fetch(name: str, revision: str | None) -> Path:
    """The directory of a model, downloaded where it was not before; resumes what was cut short.

    HF_HUB_OFFLINE=1 keeps to what was fetched before. Raises BadRecipe.
    """
    from huggingface_hub import snapshot_download  # here: slow to import, and seldom needed

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except Exception as error:  # its errors have no class in common; all mean: not to be had
        raise BadRecipe(
            f"no such directory, nor to be had from the Hugging Face Hub: {error}", found=name
        ) from error
