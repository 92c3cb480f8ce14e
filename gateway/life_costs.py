"""What a worker's life cost: computing, building weights, switching them, and idle. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.ledger_store.rows import WorkerLife
from gateway.pricing import span_cost_nano_usd


@dataclass(frozen=True, slots=True)
class LifeCosts:
    """Nano-dollars. Together they are the uptime at its price."""

    busy_nano_usd: int
    load_nano_usd: int
    switch_nano_usd: int
    idle_nano_usd: int


def life_costs(life: WorkerLife) -> LifeCosts:
    """Each part within a nano-dollar of its own time at the worker's price."""
    whole = span_cost_nano_usd(life.uptime_us, life.price_nano_usd_per_hour)
    parts = (life.busy_us, life.load_us, life.switch_us, life.idle_us)
    return LifeCosts(*allot(whole, parts))


def allot(amount: int, weights: Sequence[int]) -> list[int]:
    """Split a whole amount in proportion to weights, so that the parts sum to it exactly.

    By largest remainder; the earlier part first where remainders are equal. All weights 0: all
    parts are 0, and nothing is allotted.
    """
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    parts = [amount * weight // whole for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda place: (-(amount * weights[place] % whole), place)
    )
    for place in by_remainder[: amount - sum(parts)]:
        parts[place] += 1
    return parts
