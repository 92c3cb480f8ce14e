"""The files by which it is known what a directory holds, and where a delta's parent lies. Knows no
torch.
"""

import os
from pathlib import Path

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MANIFEST_NAME = "delta.json"
ADAPTER_NAME = "adapter_config.json"
MOST_DELTAS = 4  # of one chain: each is decoded when the last one is loaded


def is_delta(path: Path) -> bool:
    """Whether this directory changes a base: a delta, or a LoRA adapter."""
    return (path / MANIFEST_NAME).is_file() or (path / ADAPTER_NAME).is_file()


def located(delta: Path, parent: str) -> Path:
    """Where the parent of a delta lies. parent: its path, seen from the delta's directory."""
    return Path(os.path.normpath(Path(os.path.realpath(delta)) / parent))
