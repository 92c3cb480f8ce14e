"""The files by which it is known what a directory holds. Knows no torch."""

from pathlib import Path

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MANIFEST_NAME = "delta.json"
ADAPTER_NAME = "adapter_config.json"


def is_delta(path: Path) -> bool:
    """Whether this directory changes a base: a delta, or a LoRA adapter."""
    return (path / MANIFEST_NAME).is_file() or (path / ADAPTER_NAME).is_file()
