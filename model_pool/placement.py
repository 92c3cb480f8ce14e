"""Who runs what, and who leaves memory. Pure; `residency.py` and `pool.py` act on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model_pool.affinity import rank


@dataclass(frozen=True, slots=True)
class Resident:
    """Weights in memory. last_used: any clock, larger is later."""

    model: str
    size_bytes: int
    lease_count: int
    last_used: float


def choose_evictions(
    residents: Iterable[Resident], needed_bytes: int, budget_bytes: int
) -> list[str] | None:
    """Models to evict so that needed_bytes fit into the budget, the least recently used first.

    Leased models are named only where the others do not make enough room; the caller waits until
    their leases end. None: it does not fit even into empty memory.
    """
    if needed_bytes > budget_bytes:
        return None
    held = sorted(residents, key=lambda one: (one.lease_count > 0, one.last_used))
    free_bytes = budget_bytes - sum(one.size_bytes for one in held)
    victims: list[str] = []
    for one in held:
        if free_bytes >= needed_bytes:
            break
        victims.append(one.model)
        free_bytes += one.size_bytes
    return victims


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ready worker as the gateway sees it.

    busy_count: requests that it has from this gateway. serves: the models that it can run, None
    for all.
    """

    worker: str
    loaded: frozenset[str]
    busy_count: int
    limit_count: int
    serves: frozenset[str] | None = None

    def can_run(self, model: str) -> bool:
        """Whether it serves the model, loaded or not, busy or not."""
        return self.serves is None or model in self.serves


def choose_worker(
    candidates: Sequence[Candidate], model: str, key: str = "", load_factor: float = 1.25
) -> str | None:
    """The worker for a request: holding the weights, then the key's own, or least busy, or by name.

    A worker that would have to build the weights is taken before a busy one only where the busy
    one has no place left. None: all that serve the model are at their limit.

    key: see affinity.py; empty: none. load_factor: at least 1; a worker has at most so many times
    the mean, rounded up, before the key's next one is taken (Mirrokni et al. 2016, Consistent
    hashing with bounded loads, arXiv:1608.01350).
    """
    open_ones = [
        one for one in candidates if one.can_run(model) and one.busy_count < one.limit_count
    ]
    if not open_ones:
        return None
    holding = [one for one in open_ones if model in one.loaded] or open_ones
    if not key or len(holding) == 1:
        return min(holding, key=lambda one: (one.busy_count, one.worker)).worker
    most_count = most_busy_count(holding, load_factor)
    roomy = [one.worker for one in holding if one.busy_count < most_count]
    return max(roomy, key=lambda worker: rank(key, worker))


def most_busy_count(candidates: Sequence[Candidate], load_factor: float) -> int:
    """What one of them may have when one more request has come; the least busy one has room."""
    total_count = sum(one.busy_count for one in candidates) + 1
    return math.ceil(load_factor * total_count / len(candidates))
