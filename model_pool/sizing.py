"""How many accelerators a fleet's traffic needs, and which specialists share one. Pure.

A model whose traffic fills accelerators gets them for itself; what is left of it, and models with
less, are packed together, the largest first, each where it first fits. An accelerator that serves
one model may be loaded more than one that switches between several: while one of them is live, the
others' requests wait. How much is in `Targets`, from what `make simulate-switching` found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from model_pool import capacity
from model_pool.capacity import Card, DeltaSizes, Limits, ModelShape, Plan, Tier
from model_pool.throughput import Request, Speed, speed_of

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Demand:
    """One model's traffic: requests a day on average, and their usual size.

    delta: None for the base and LoRA adapters, which run on the base's live weights.
    """

    model: str
    requests_per_day: float
    request: Request
    delta: DeltaSizes | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """How far accelerators are loaded.

    peak_factor: the busiest time's requests over the average's. alone_load, shared_load: share of
    the requests that an accelerator could take, at the busiest time. max_wait_s: as in fleet.yaml.
    """

    peak_factor: float = 3.0
    alone_load: float = 0.7
    shared_load: float = 0.25
    max_wait_s: float = 10.0


@dataclass(frozen=True)
class Placed:
    """One accelerator and the models that it serves, with this accelerator's part of each."""

    card: Card
    shape: ModelShape
    limits: Limits
    demands: tuple[Demand, ...]
    targets: Targets

    @cached_property
    def plan(self) -> Plan:
        """What of base and deltas lies where."""
        deltas = [one.delta for one in self.demands if one.delta]
        return capacity.plan(self.card, self.shape, deltas, self.limits)

    @cached_property
    def speed(self) -> Speed:
        """With what is left for keys and values."""
        return speed_of(self.card, self.shape, self.plan.cache_token_count)

    @property
    def live_count(self) -> int:
        """Sets of weights that take turns."""
        runs_base = any(one.delta is None for one in self.demands)
        return sum(one.delta is not None for one in self.demands) + runs_base

    def load(self, demand: Demand) -> float:
        """Share of what the accelerator could take that the model asks for at the busiest time."""
        peak_per_s = demand.requests_per_day * self.targets.peak_factor / SECONDS_PER_DAY
        return peak_per_s * self.speed.request_s(demand.request)

    @property
    def peak_load(self) -> float:
        """Of all its models."""
        return sum(map(self.load, self.demands))

    @property
    def mean_load(self) -> float:
        """On average over a day."""
        return self.peak_load / self.targets.peak_factor

    @property
    def switching(self) -> float:
        """Share of time that goes to switching where every model has its turn within max_wait_s."""
        if self.live_count < 2:
            return 0.0
        rotation_s = sum(
            self.plan.switch_s(tier, delta) for tier in Tier for delta in self.plan.held[tier]
        )
        if any(one.delta is None for one in self.demands):
            rotation_s += self.plan.switch_s(Tier.CARD, None)
        return rotation_s / max(self.targets.max_wait_s, rotation_s)

    @property
    def limit(self) -> float:
        """The highest load that it should have."""
        if self.live_count < 2:
            return self.targets.alone_load
        return self.targets.shared_load * (1 - self.switching)

    @property
    def is_enough(self) -> bool:
        return self.plan.fits and self.peak_load <= self.limit

    def with_demand(self, demand: Demand) -> Placed:
        """The same with one model more."""
        return replace(self, demands=(*self.demands, demand))


class DoesNotFit(ValueError):
    """The card cannot serve the model at all."""


def size(
    card: Card, shape: ModelShape, limits: Limits, demands: Sequence[Demand], targets: Targets
) -> list[Placed]:
    """The accelerators that serve all of it, the fullest first. Raises DoesNotFit."""
    empty = Placed(card, shape, limits, (), targets)
    if not empty.plan.fits:
        raise DoesNotFit(f"{card.name}: {shape.name} does not fit")
    whole, rest = [], []
    for demand in demands:
        own, left = _fill(empty, demand)
        whole += own
        if left:
            rest.append(left)
    return whole + _pack(empty, rest)


def _fill(empty: Placed, demand: Demand) -> tuple[list[Placed], Demand | None]:
    """Accelerators that one model fills, and what it asks for beyond them."""
    alone = empty.with_demand(demand)
    count = int(alone.peak_load / empty.targets.alone_load)
    if not count:
        return [], demand
    full_rate = demand.requests_per_day * empty.targets.alone_load / alone.peak_load
    full = empty.with_demand(replace(demand, requests_per_day=full_rate))
    left_rate = demand.requests_per_day - count * full_rate
    left = replace(demand, requests_per_day=left_rate) if left_rate > 1e-9 * full_rate else None
    return [full] * count, left


def _pack(empty: Placed, demands: Sequence[Demand]) -> list[Placed]:
    """First fit, decreasing; a model that fits nowhere opens an accelerator."""
    packed: list[Placed] = []
    for demand in sorted(demands, key=lambda one: -empty.with_demand(one).peak_load):
        for place, there in enumerate(packed):
            tried = there.with_demand(demand)
            if tried.is_enough:
                packed[place] = tried
                break
        else:
            packed.append(empty.with_demand(demand))
    return packed


def scaled(demands: Sequence[Demand], factor: float) -> list[Demand]:
    """The same mix, so many times the requests."""
    return [replace(one, requests_per_day=one.requests_per_day * factor) for one in demands]
