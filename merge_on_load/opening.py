"""What a specialist is stored as, seen from its path."""

from pathlib import Path

from merge_on_load.delta import Delta
from merge_on_load.lora import Lora
from merge_on_load.names import ADAPTER_NAME
from merge_on_load.recipes.merging import Merged


def open_delta(path: Path) -> Delta | Lora | Merged:
    """Open a merge recipe where a file lies, a LoRA adapter where PEFT's adapter_config.json does,
    else a delta.

    Raises as `Merged.open`, `Lora.open` and `Delta.open` do.
    """
    path = Path(path)
    if path.is_file():
        return Merged.open(path)
    return Lora.open(path) if (path / ADAPTER_NAME).is_file() else Delta.open(path)
