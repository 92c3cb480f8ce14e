"""What is kept on an accelerator, read from the base's files: numbers for `capacity.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merge_on_load.errors import NotACheckpoint
from model_pool import capacity
from model_pool.capacity import Card, DeltaSizes, Limits, ModelShape, Plan


def read_config(base: Path) -> dict[str, Any]:
    """The text part of config.json. Raises NotACheckpoint."""
    file = base / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotACheckpoint(f"cannot be read: {error}", file=file) from None
    if not isinstance(found, dict):
        raise NotACheckpoint("expected an object", file=file)
    text: dict[str, Any] = found.get("text_config", found)
    return text


def read_shape(base: Path, *, item_bytes: int, cache_item_bytes: int) -> ModelShape:
    """item_bytes: of one live weight; cache_item_bytes: of one key or value. Raises MergeError."""
    from merge_on_load import Checkpoint  # here: torch is slow to import

    checkpoint = Checkpoint.open(base)
    try:
        per_token = capacity.cache_bytes_per_token(read_config(base), cache_item_bytes)
    except (KeyError, TypeError) as error:
        raise NotACheckpoint(f"not known: {error!r}", file=base / "config.json") from None
    return ModelShape(
        base.name, checkpoint.parameter_count * item_bytes, checkpoint.size_bytes, per_token
    )


def divide_card(
    base: Path,
    deltas: Sequence[DeltaSizes],
    *,
    memory_bytes: int,
    share: float,
    item_bytes: int,
    context_token_count: int,
) -> Plan:
    """How the share of a card that is vLLM's is divided. Raises MergeError."""
    shape = read_shape(base, item_bytes=item_bytes, cache_item_bytes=item_bytes)
    card = Card("card", memory_bytes, 1.0, 1.0, 1.0, "as CUDA reports it")  # no times are asked for
    limits = Limits(context_token_count, share=share)
    return capacity.plan(card, shape, deltas, limits)
