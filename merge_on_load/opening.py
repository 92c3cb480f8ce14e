"""What a specialist is stored as, seen from its directory."""

from pathlib import Path

from merge_on_load.delta import Delta
from merge_on_load.lora import Lora
from merge_on_load.lora_config import CONFIG_NAME


def open_delta(path: Path) -> Delta | Lora:
    """Open a LoRA adapter where PEFT's adapter_config.json lies, else a delta.

    Raises as `Lora.open` and `Delta.open` do.
    """
    path = Path(path)
    return Lora.open(path) if (path / CONFIG_NAME).is_file() else Delta.open(path)
