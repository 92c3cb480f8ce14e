"""What `deltafleet plan` plans: a fleet's files, or a model's shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice, product
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.settings import Settings, load_settings
from model_pool import capacity
from model_pool.capacity import PRESETS, DeltaSizes, ModelShape
from model_pool.settings import SettingsError
from model_pool.vllm.room import read_config, read_shape

if TYPE_CHECKING:  # torch is slow to import
    from merge_on_load.codecs import Coding
    from merge_on_load.specs import TensorSpec

PRESET_CONTEXT_TOKEN_COUNT = 4096
PRESET_SPECIALIST_COUNT = 20
LOSSLESS_STORED_SHARE = 1 / 1.5  # measured: lossless deltas are so much smaller than the weights
# Rows and widths of the small tensors by which the stored size of a large one is told.
_SAMPLE_ROWS, _SAMPLE_WIDTHS = (256, 512), (1024, 2048)
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
    """A model in bfloat16 and its specialists, each tensor coded as `pack` would. codec: as `pack`
    takes it, settings and all. Raises ClickException.
    """
    from merge_on_load.codecs import Layout
    from merge_on_load.errors import UnknownCodec
    from merge_on_load.prepared import prepared_tensor_bytes
    from merge_on_load.specs import TensorSpec

    try:
        layout = Layout.parse(codec)
    except UnknownCodec as error:
        raise click.BadParameter(str(error), param_hint="--codec") from None
    parameters, prepared, stored = 0, 0, 0
    for tensor, shape in capacity.tensor_shapes(PRESETS[name]):
        spec = TensorSpec("BF16", shape)
        coding = layout.coding(tensor, spec, spec)
        parameters += spec.parameter_count
        prepared += prepared_tensor_bytes(coding, spec)
        stored += _stored_bytes(coding, spec)
    per_token = capacity.cache_bytes_per_token(PRESETS[name], 2)
    return PlannedFleet(
        model=ModelShape(name, 2 * parameters, 2 * parameters, per_token),
        deltas=(DeltaSizes("specialist", prepared, stored),),
        specialist_count=PRESET_SPECIALIST_COUNT,
        context_token_count=PRESET_CONTEXT_TOKEN_COUNT,
    )


def _stored_bytes(coding: Coding, spec: TensorSpec) -> int:
    """One tensor on the disk, its change taken for noise where how it compresses matters."""
    from merge_on_load.specs import row_count_and_width

    if coding.codec == "lossless":
        return int(spec.size_bytes * LOSSLESS_STORED_SHARE)
    rows, width = row_count_and_width(spec.shape)
    samples, (low, high), (narrow, wide) = _samples(coding), _SAMPLE_ROWS, _SAMPLE_WIDTHS
    taller, wider = (rows - low) / (high - low), (width - narrow) / (wide - narrow)
    first = samples[low, narrow] + taller * (samples[high, narrow] - samples[low, narrow])
    second = samples[low, wide] + taller * (samples[high, wide] - samples[low, wide])
    return round(first + wider * (second - first))


@cache
def _samples(coding: Coding) -> dict[tuple[int, int], int]:
    """Payload bytes of small tensors by their shape: a part of a payload grows with the rows, with
    the width, or with both.
    """
    import torch

    from merge_on_load.codecs import make_codec

    codec, random = make_codec(coding.codec, coding.settings), torch.Generator().manual_seed(0)
    found = {}
    for shape in product(_SAMPLE_ROWS, _SAMPLE_WIDTHS):
        tuned = torch.randn(shape, generator=random)
        payload = codec.encode("sample", torch.zeros(shape), tuned)
        found[shape] = sum(part.nbytes for part in payload.values())
    return found


def repeated(deltas: Sequence[DeltaSizes], count: int) -> list[DeltaSizes]:
    """So many deltas, of the same sizes in turn; the second round is called sql-2."""
    if not deltas:
        return []
    rounds = ((delta, number // len(deltas) + 1) for number, delta in enumerate(cycle(deltas)))
    return [
        delta if turn == 1 else replace(delta, name=f"{delta.name}-{turn}")
        for delta, turn in islice(rounds, count)
    ]
