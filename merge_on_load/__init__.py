"""Store a fine-tuned model as base + delta; build its weights tensor by tensor.

    from pathlib import Path
    from merge_on_load import Checkpoint, Delta, pack, stream, unpack

    pack(Path("base"), Path("tuned"), "onebit", Path("tuned.delta"))      # fine-tune -> delta
    base, delta = Checkpoint.open(Path("base")), Delta.open(Path("tuned.delta"))
    for name, tensor in stream(base, delta):                              # bounded memory
        live[name].copy_(tensor)
    unpack(Path("base"), Path("tuned.delta"), Path("rebuilt"))            # delta -> checkpoint

`stream`, `unpack` and `inspect` take a LoRA adapter, as PEFT writes it, for a delta (`Lora`).
`recipes.merge` writes what a merge recipe makes; `stream` and `prepare` take that, too (`Merged`).

Every expected failure is a `merge_on_load.errors.MergeError`. Names are resolved on first use,
so that importing the package, or its errors, does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merge_on_load.applying import apply_into
    from merge_on_load.building import stream, unpack
    from merge_on_load.checkpoint import Checkpoint
    from merge_on_load.checkpoint_writer import CheckpointWriter
    from merge_on_load.delta import Delta
    from merge_on_load.errors import MergeError
    from merge_on_load.inspection import inspect
    from merge_on_load.loading import load
    from merge_on_load.lora import Lora
    from merge_on_load.lora_export import export_lora
    from merge_on_load.opening import open_delta
    from merge_on_load.packing import pack, repack
    from merge_on_load.prepared import Prepared, prepare, prepared_size_bytes
    from merge_on_load.recipes.merging import Merged
    from merge_on_load.specs import TensorSpec
    from merge_on_load.verifying import verify

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "Delta",
    "Lora",
    "MergeError",
    "Merged",
    "Prepared",
    "TensorSpec",
    "apply_into",
    "export_lora",
    "inspect",
    "load",
    "open_delta",
    "pack",
    "prepare",
    "prepared_size_bytes",
    "repack",
    "stream",
    "unpack",
    "verify",
]

# No submodule bears the name of a function here: importing it would hide the function.
_HOMES = {
    "Checkpoint": "checkpoint",
    "CheckpointWriter": "checkpoint_writer",
    "Delta": "delta",
    "Lora": "lora",
    "MergeError": "errors",
    "Merged": "recipes.merging",
    "Prepared": "prepared",
    "TensorSpec": "specs",
    "apply_into": "applying",
    "export_lora": "lora_export",
    "inspect": "inspection",
    "load": "loading",
    "open_delta": "opening",
    "pack": "packing",
    "prepare": "prepared",
    "prepared_size_bytes": "prepared",
    "repack": "packing",
    "stream": "building",
    "unpack": "building",
    "verify": "verifying",
}


def __getattr__(name: str) -> object:
    """Resolve a public name to its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
