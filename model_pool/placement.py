"""Who runs what, and who leaves memory. Pure; `residency.py` and `pool.py` act on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


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


def choose_worker(candidates: Sequence[Candidate], model: str) -> str | None:
    """The worker for a request: holding the weights, then least busy, then by name.

    A worker that would have to build the weights is taken before a busy one only where the busy
    one has no place left. None: all that serve the model are at their limit.
    """
    open_ones = [
        one for one in candidates if one.can_run(model) and one.busy_count < one.limit_count
    ]
    if not open_ones:
        return None
    best = min(open_ones, key=lambda one: (model not in one.loaded, one.busy_count, one.worker))
    return best.worker
