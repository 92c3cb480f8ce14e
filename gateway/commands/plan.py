"""deltafleet plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click

from gateway.commands.connection import json_option
from gateway.settings import Settings, load_settings
from model_pool import capacity
from model_pool.capacity import CARDS, GIB, PRESETS, DeltaSizes, Limits, ModelShape, Plan, Tier
from model_pool.settings import SettingsError
from model_pool.vllm.room import read_config, read_shape

FLEET = click.Path(exists=True, dir_okay=False, path_type=Path)
CODECS = ("onebit", "int8", "lossless")
PRESET_CONTEXT_TOKEN_COUNT = 4096
PRESET_SPECIALIST_COUNT = 20
# Lossless deltas are measured to be 1.5 times smaller than the weights; others are stored about as
# they are kept.
LOSSLESS_STORED_SHARE = 1 / 1.5
_PLACES = {Tier.CARD: "on the card", Tier.HOST: "in host memory", Tier.DISK: "on disk"}
_ITEM_BYTES = {"float32": 4}  # of other dtypes: 2; vLLM's "auto" halves a float32 base


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What is to be planned. context_count: None for the default. adapters: LoRA, which need no
    switch and share none of the tiers.
    """

    model: ModelShape
    deltas: tuple[DeltaSizes, ...]
    specialist_count: int
    context_token_count: int
    context_count: int | None = None
    share: float = capacity.DEFAULT_SHARE
    adapters: tuple[DeltaSizes, ...] = ()


@click.command(
    epilog="Example: deltafleet plan fleet.yaml, or: deltafleet plan --model mistral-7b "
    "--specialists 100"
)
@click.argument("fleet", type=FLEET, required=False)
@click.option("--model", type=click.Choice(list(PRESETS)), help="A shape, in place of FLEET.")
@click.option("--codec", type=click.Choice(CODECS), help="Of the deltas of --model.  [onebit]")
@click.option("--specialists", type=click.IntRange(1), help="How many.  [FLEET's; 20 with --model]")
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    type=click.Choice(list(CARDS), case_sensitive=False),
    help="May be repeated.  [all]",
)
@click.option(
    "--context", type=click.IntRange(2), help="Tokens.  [FLEET's or its base's; 4096 with --model]"
)
@click.option(
    "--contexts",
    type=click.IntRange(1),
    help="Full contexts for which the KV cache is to have room, before base and deltas.  [8]",
)
@click.option(
    "--host-memory",
    type=click.FloatRange(0),
    default=capacity.DEFAULT_HOST_MEMORY_BYTES / GIB,
    show_default=True,
    help="GiB that base and deltas may take.",
)
@json_option
def plan(
    fleet: Path | None,
    model: str | None,
    codec: str | None,
    specialists: int | None,
    gpus: tuple[str, ...],
    context: int | None,
    contexts: int | None,
    host_memory: float,
    as_json: bool,
) -> None:
    """Say how many specialists fit on an accelerator with vLLM; start nothing.

    Sizes are those of FLEET's files, or of a model's shape.
    """
    if (fleet is None) == (model is None):
        raise click.UsageError("give either FLEET or --model")
    if fleet and codec:
        raise click.UsageError("--codec is for --model: a delta in FLEET has its own")
    wanted = _fleet_of(fleet) if fleet else _preset_of(str(model), codec or "onebit")
    deltas = _repeated(wanted.deltas, specialists or wanted.specialist_count)
    limits = Limits(
        context_token_count=context or wanted.context_token_count,
        context_count=contexts or wanted.context_count or capacity.DEFAULT_CONTEXT_COUNT,
        host_memory_bytes=int(host_memory * GIB),
        share=wanted.share,
    )
    plans = [
        capacity.plan(CARDS[gpu], wanted.model, deltas, limits) for gpu in gpus or tuple(CARDS)
    ]
    if as_json:
        click.echo(json.dumps(_as_dict(wanted, deltas, plans)))
    else:
        click.echo("\n".join(_in_words(wanted, deltas, plans)))


def _fleet_of(path: Path) -> _Fleet:
    """Read fleet.yaml, the base's and the deltas' headers. Raises ClickException."""
    from merge_on_load.errors import MergeError

    try:
        return _read(load_settings(path))
    except (SettingsError, MergeError) as error:
        raise click.ClickException(str(error)) from None


def _read(settings: Settings) -> _Fleet:
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
    return _Fleet(
        model=shape,
        deltas=deltas,
        adapters=adapters,
        specialist_count=len(deltas),
        context_token_count=context,
        context_count=fixed_bytes
        and max(1, fixed_bytes // (context * shape.cache_bytes_per_token)),
        share=(options and options.gpu_memory_utilization) or capacity.DEFAULT_SHARE,
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


def _preset_of(name: str, codec: str) -> _Fleet:
    """A model in bfloat16 and its specialists, each tensor with the codec that `pack` gives it."""
    from merge_on_load.codecs import CodecSettings, codec_for
    from merge_on_load.specs import TensorSpec

    group_size = CodecSettings().group_size
    parameters, prepared, stored = 0, 0, 0
    for tensor, shape in capacity.tensor_shapes(PRESETS[name]):
        spec = TensorSpec("BF16", shape)
        chosen = codec_for(codec, tensor, spec, spec)
        kept = capacity.prepared_bytes(chosen, shape, 2, group_size)
        parameters += spec.parameter_count
        prepared += kept
        stored += int(kept * LOSSLESS_STORED_SHARE) if chosen == "lossless" else kept
    per_token = capacity.cache_bytes_per_token(PRESETS[name], 2)
    return _Fleet(
        model=ModelShape(name, 2 * parameters, 2 * parameters, per_token),
        deltas=(DeltaSizes("specialist", prepared, stored),),
        specialist_count=PRESET_SPECIALIST_COUNT,
        context_token_count=PRESET_CONTEXT_TOKEN_COUNT,
    )


def _repeated(deltas: Sequence[DeltaSizes], count: int) -> list[DeltaSizes]:
    """So many deltas, of the same sizes in turn; the second round is called sql-2."""
    if not deltas:
        return []
    rounds = ((delta, number // len(deltas) + 1) for number, delta in enumerate(cycle(deltas)))
    return [
        delta if turn == 1 else replace(delta, name=f"{delta.name}-{turn}")
        for delta, turn in islice(rounds, count)
    ]


def _in_words(wanted: _Fleet, deltas: Sequence[DeltaSizes], plans: Sequence[Plan]) -> list[str]:
    mean, model = capacity.typical(deltas), wanted.model
    lines = [
        f"{model.name}: {_gb(model.weights_bytes)} of weights, {model.cache_bytes_per_token:,} "
        "bytes of KV cache per token",
        f"{len(deltas)} deltas, on average {_gb(mean.prepared_bytes)} in memory and "
        f"{_gb(mean.stored_bytes)} on disk",
    ]
    if wanted.adapters:
        size = _gb(sum(one.stored_bytes for one in wanted.adapters))
        lines.append(
            f"{len(wanted.adapters)} LoRA adapters, {size}, run on the base without a switch"
        )
    for one in plans:
        lines += ["", *_card_in_words(one, mean)]
    return [*lines, "", "Assumed, not measured:", *(f"  {line}" for line in _assumed(plans))]


def _card_in_words(found: Plan, mean: DeltaSizes) -> list[str]:
    limits, model = found.limits, found.model
    size = f"{_gb(found.budget_bytes)}, {limits.share:.0%} of its {_gb(found.card.memory_bytes)}"
    lines = [f"{found.card.name}: {size}"]
    if not found.fits:
        context_bytes = limits.context_token_count * model.cache_bytes_per_token
        needed = f"live weights {_gb(model.weights_bytes)} + overhead {_gb(limits.overhead_bytes)}"
        needed += f" + one context of KV cache {_gb(context_bytes)}"
        total = found.budget_bytes + found.shortage_bytes
        return [*lines, f"  DOES NOT FIT: {needed} = {_gb(total)} > {_gb(found.budget_bytes)}"]
    lines += [
        f"  {'live weights':<17}{_gb(model.weights_bytes):>9}",
        f"  {'overhead':<17}{_gb(limits.overhead_bytes):>9}  activations, CUDA graphs: assumed",
        f"  {'copy of the base':<17}{_base_in_words(found)}",
        f"  {'KV cache':<17}{_gb(found.cache_bytes):>9}  {found.cache_token_count:,} tokens: "
        f"{found.context_count:.1f} full contexts of {limits.context_token_count:,}",
        f"  {'deltas':<17}{_gb(found.held_bytes(Tier.CARD)):>9}",
    ]
    return [*lines, *(_tier_in_words(found, tier, mean) for tier in Tier)]


def _base_in_words(found: Plan) -> str:
    model, limits = found.model, found.limits
    copy = _gb(model.base_bytes)
    if found.base_tier is Tier.CARD:
        return f"{copy:>9}"
    context_bytes = limits.context_token_count * model.cache_bytes_per_token
    reserve = limits.context_count * context_bytes
    total = model.weights_bytes + limits.overhead_bytes + reserve + model.base_bytes
    told = (
        f"{'-':>9}  DOES NOT FIT beside the live weights and {limits.context_count} contexts: "
        f"{_gb(total)} > {_gb(found.budget_bytes)};"
    )
    if found.base_tier is Tier.HOST:
        return f"{told} {copy} in host memory"
    return f"{told} nor in host memory: {copy} > {_gb(limits.host_memory_bytes)}; read from disk"


def _tier_in_words(found: Plan, tier: Tier, mean: DeltaSizes) -> str:
    count, seconds = len(found.held[tier]), found.switch_s(tier, mean)
    total = sum(map(len, found.held.values()))
    told = f"    {_PLACES[tier]:<15}{count:>5} of {total}"
    if tier is Tier.DISK:
        return f"{told}{'':17} switch {_time(seconds)}"
    room = f", room for {_room_count(found, tier, mean)}"
    if tier is Tier.CARD and found.base_tier is not Tier.CARD:
        return f"{told}{room:<17} none is kept on a faster tier than the base"
    return f"{told}{room:<17} switch {_time(seconds)}"


def _room_count(found: Plan, tier: Tier, mean: DeltaSizes) -> int:
    return found.rooms[tier] // max(1, mean.prepared_bytes)


def _assumed(plans: Sequence[Plan]) -> list[str]:
    cards = {one.card.name: one.card.source for one in plans}
    return [
        *(f"{name}: {source}" for name, source in cards.items()),
        f"a switch reads base and delta and writes the live weights at "
        f"{capacity.BANDWIDTH_SHARE:.0%} of the card's bandwidth; no transfer overlaps another; "
        f"calls take {1000 * capacity.CONTROL_S:.0f} ms",
        f"disk: NVMe, {capacity.DISK_BYTES_PER_S / 1e9:.0f} GB/s; checked and decompressed at "
        f"{capacity.PREPARE_BYTES_PER_S / 1e9:.0f} GB/s on four cores",
        f"overhead: {capacity.OVERHEAD_BYTES / 1e9:.1f} GB; host memory for base and deltas: "
        f"{_gb(plans[0].limits.host_memory_bytes)}",
    ]


def _as_dict(wanted: _Fleet, deltas: Sequence[DeltaSizes], plans: Sequence[Plan]) -> dict[str, Any]:
    mean, model, limits = capacity.typical(deltas), wanted.model, plans[0].limits
    return {
        "model": model.name,
        "weights_bytes": model.weights_bytes,
        "base_bytes": model.base_bytes,
        "cache_bytes_per_token": model.cache_bytes_per_token,
        "delta_count": len(deltas),
        "delta_prepared_bytes": mean.prepared_bytes,
        "delta_stored_bytes": mean.stored_bytes,
        "adapter_count": len(wanted.adapters),
        "context_token_count": limits.context_token_count,
        "host_memory_bytes": limits.host_memory_bytes,
        "cards": {one.card.name.lower(): _card_as_dict(one, mean) for one in plans},
        "assumed": _assumed(plans),
    }


def _card_as_dict(found: Plan, mean: DeltaSizes) -> dict[str, Any]:
    return {
        "fits": found.fits,
        "shortage_bytes": found.shortage_bytes,
        "memory_bytes": found.card.memory_bytes,
        "budget_bytes": found.budget_bytes,
        "overhead_bytes": found.limits.overhead_bytes,
        "base_tier": found.base_tier.value,
        "cache_bytes": found.cache_bytes,
        "cache_token_count": found.cache_token_count,
        "context_count": round(found.context_count, 2),
        "host_used_bytes": found.host_used_bytes,
        "base_switch_s": _switch_s(found, Tier.CARD, None),
        "tiers": {tier.value: _tier_as_dict(found, tier, mean) for tier in Tier},
    }


def _tier_as_dict(found: Plan, tier: Tier, mean: DeltaSizes) -> Mapping[str, Any]:
    told = {
        "delta_count": len(found.held[tier]),
        "delta_bytes": found.held_bytes(tier),
        "switch_s": _switch_s(found, tier, mean),
        "specialists": [delta.name for delta in found.held[tier]],
    }
    return told if tier is Tier.DISK else {**told, "room_count": _room_count(found, tier, mean)}


def _switch_s(found: Plan, tier: Tier, delta: DeltaSizes | None) -> float | None:
    return round(found.switch_s(tier, delta), 6) if found.fits else None


def _gb(size_bytes: int) -> str:
    """Decimal, with three digits that count: a demo has kilobytes, a 7B gigabytes."""
    if size_bytes == 0:
        return "-"
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.{2 if size_bytes < 10 * factor else 1}f} {unit}"
    return f"{size_bytes / 1000:.1f} kB"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
