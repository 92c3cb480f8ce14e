"""What fits on each card, in words and as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.commands.plan_fleet import PlannedFleet
from model_pool import capacity
from model_pool.capacity import DeltaSizes, Plan, Tier

_PLACES = {Tier.CARD: "on the card", Tier.HOST: "in host memory", Tier.DISK: "on disk"}


def in_words(
    wanted: PlannedFleet, deltas: Sequence[DeltaSizes], plans: Sequence[Plan]
) -> list[str]:
    """What a terminal shows."""
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


def as_dict(
    wanted: PlannedFleet, deltas: Sequence[DeltaSizes], plans: Sequence[Plan]
) -> dict[str, Any]:
    """The same as an object."""
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
