"""What `deltafleet plan` plans: a fleet's files, or a model's shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import click

from gateway.settings import Settings, load_settings
from model_pool import capacity
from model_pool.capacity import PRESETS, DeltaSizes, ModelShape
from model_pool.settings import SettingsError
from model_pool.vllm.room import read_config, read_shape

PRESET_CONTEXT_TOKEN_COUNT = 4096
PRESET_SPECIALIST_COUNT = 20
# Lossless deltas are measured to be 1.5 times smaller than the weights; others are stored about as
# they are kept.
LOSSLESS_STORED_SHARE = 1 / 1.5
_ITEM_BYTES = {"float32": 4}  # of other dtypes: 2; vLLM's "auto" halves a float32 base


@dataclass(frozen=True, slots=True)
class PlannedFleet:
    """context_count: None for the default. adapters: LoRA, which need no
    switch and share none of the tiers.
    """

    model: ModelShape
    deltas: tuple[DeltaSizes, ...]
    specialist_count: int
    context_token_count: int
    context_count: int | None = None
    share: float = capacity.DEFAULT_SHARE
    adapters: tuple[DeltaSizes, ...] = ()
    settings: Settings | None = None  # of FLEET


def fleet_of(path: Path) -> PlannedFleet:
    """Read fleet.yaml, the base's and the deltas' headers. Raises ClickException."""
    from merge_on_load.errors import MergeError

    try:
        return _read(load_settings(path))
    except (SettingsError, MergeError) as error:
        raise click.ClickException(str(error)) from None


def _read(settings: Settings) -> PlannedFleet:
    options = settings.pool.vllm
    item_bytes = _ITEM_BYTES.get(options.dtype if options else "auto", 2)
    is_small = bool(options and (options.kv_cache_dtype or "").startswith("fp8"))
    shape = read_shape(
        settings.base.path, item_bytes=item_bytes, cache_item_bytes=1 if is_small else item_bytes
    )
    context = settings.pool.context_token_count or read_config(settings.base.path).get(
        "max_position_embeddings"
    )
    if not isinstance(context, int):
        raise SettingsError(f"{settings.base.path}/config.json: no max_position_embeddings")
    fixed_bytes = options.kv_cache_memory_bytes if options else None
    deltas, adapters = _sizes_of(settings)
    return PlannedFleet(
        model=shape,
        deltas=deltas,
        adapters=adapters,
        specialist_count=len(deltas),
        context_token_count=context,
        context_count=fixed_bytes
        and max(1, fixed_bytes // (context * shape.cache_bytes_per_token)),
        share=(options and options.gpu_memory_utilization) or capacity.DEFAULT_SHARE,
        settings=settings,
    )


def _sizes_of(settings: Settings) -> tuple[tuple[DeltaSizes, ...], tuple[DeltaSizes, ...]]:
    """Deltas and LoRA adapters, from their headers. Raises MergeError."""
    from merge_on_load import Lora, open_delta, prepared_size_bytes

    deltas, adapters = [], []
    for name in settings.by_recency():
        found = open_delta(settings.specialists[name].source)
        if isinstance(found, Lora):
            adapters.append(DeltaSizes(name, found.size_bytes, found.size_bytes))
        else:
            deltas.append(DeltaSizes(name, prepared_size_bytes(found), found.size_bytes))
    return tuple(deltas), tuple(adapters)


def preset_of(name: str, codec: str) -> PlannedFleet:
    """A model in bfloat16 and its specialists, each tensor with the codec that `pack` gives it."""
    from merge_on_load.codecs import CodecSettings, Layout
    from merge_on_load.specs import TensorSpec

    group_size, layout = CodecSettings().group_size, Layout.parse(codec)
    parameters, prepared, stored = 0, 0, 0
    for tensor, shape in capacity.tensor_shapes(PRESETS[name]):
        spec = TensorSpec("BF16", shape)
        chosen = layout.coding(tensor, spec, spec).codec
        kept = capacity.prepared_bytes(chosen, shape, 2, group_size)
        parameters += spec.parameter_count
        prepared += kept
        stored += int(kept * LOSSLESS_STORED_SHARE) if chosen == "lossless" else kept
    per_token = capacity.cache_bytes_per_token(PRESETS[name], 2)
    return PlannedFleet(
        model=ModelShape(name, 2 * parameters, 2 * parameters, per_token),
        deltas=(DeltaSizes("specialist", prepared, stored),),
        specialist_count=PRESET_SPECIALIST_COUNT,
        context_token_count=PRESET_CONTEXT_TOKEN_COUNT,
    )


def repeated(deltas: Sequence[DeltaSizes], count: int) -> list[DeltaSizes]:
    """So many deltas, of the same sizes in turn; the second round is called sql-2."""
    if not deltas:
        return []
    rounds = ((delta, number // len(deltas) + 1) for number, delta in enumerate(cycle(deltas)))
    return [
        delta if turn == 1 else replace(delta, name=f"{delta.name}-{turn}")
        for delta, turn in islice(rounds, count)
    ]
