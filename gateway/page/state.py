"""What the page shows, as JSON: made at most once a second, however many look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import accumulate
from typing import Any

from gateway.fleet_service import FleetServicer
from gateway.metrics import Metrics
from gateway.page.books import LedgerBooks
from gateway.page.documents import Document
from gateway.page.fleet import family_json, model_json, usd, worker_json
from gateway.page.history import INTERVAL_S, KEPT_S, QUANTILES, Bar, History, Point, to_bars
from gateway.page.money import money_json
from gateway.page.recent import Finished, RecentRequests
from gateway.page.sampling import take_sample
from gateway.price_list import PricedBaseline
from model_pool.pool import Pool

SNAPSHOT_S = 1.0
BAR_S = 60.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the page's facts come from.

    model_names: of the whole fleet. engines: by worker, as fleet.yaml says. name_of: a delta's or
    checkpoint's file name → its model.
    """

    metrics: Metrics
    pool: Pool
    fleet: FleetServicer
    model_names: tuple[str, ...]
    engines: Mapping[str, str]
    name_of: Mapping[str, str]
    baselines: Mapping[str, PricedBaseline]
    recent: RecentRequests
    books: LedgerBooks
    history: History = field(default_factory=History)


class PageState:
    """The page's documents. Used on one event loop, which need not be the gRPC door's.

    now: the time, with its zone. clock: seconds, monotonic.
    """

    def __init__(
        self,
        sources: Sources,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources
        self._now = now
        self._started_at = now()
        self._state = Snapshot(self._make_state, SNAPSHOT_S, clock)
        self._history = Snapshot(self._make_history, SNAPSHOT_S, clock)

    async def state(self) -> Document:
        """The fleet, the last requests and the money, as they are now."""
        return await self._state.latest()

    async def history(self) -> Document:
        """The last hour."""
        return await self._history.latest()

    async def sample_for_ever(self) -> None:
        """Add to the history every INTERVAL_S."""
        sources = self._sources
        while True:
            at_s = self._now().timestamp()
            sources.history.add(take_sample(sources.metrics, sources.pool, at_s))
            await asyncio.sleep(INTERVAL_S)

    async def _make_state(self) -> Document:
        sources, now = self._sources, self._now()
        books = await sources.books.latest()
        models = sources.fleet.describe(sources.model_names)
        read_at = sources.books.read_at
        return Document.of_json(
            {
                "now_s": now.timestamp(),
                "started_s": self._started_at.timestamp(),
                "version": version("deltafleet"),
                "workers": [
                    worker_json(member, sources.engines.get(name, ""), sources.history.utilisation)
                    for name, member in sources.pool.members.items()
                ],
                "models": [model_json(one) for one in models],
                "family": family_json(models, sources.name_of),
                "recent": [recent_json(one) for one in sources.recent.latest_first()],
                "money": money_json(books, sources.baselines, now) if books else None,
                "ledger_read_s": read_at.timestamp() if read_at else None,
                "ledger_failure": sources.books.failure,
            }
        )

    async def _make_history(self) -> Document:
        return Document.of_json(history_json(self._sources.history.points))


class Snapshot:
    """A document that is made again only where the last one is too old, once for all who wait."""

    def __init__(
        self, make: Callable[[], Awaitable[Document]], kept_s: float, clock: Callable[[], float]
    ) -> None:
        self._make = make
        self._kept_s = kept_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._made_s = float("-inf")
        self._document: Document | None = None

    async def latest(self) -> Document:
        """One that is at most kept_s old. Raises what making it does."""
        async with self._lock:
            if self._document is None or self._clock() - self._made_s >= self._kept_s:
                self._document = await self._make()
                self._made_s = self._clock()
            return self._document


def recent_json(one: Finished) -> dict[str, Any]:
    """A finished request. saved_usd: beside each baseline, where it was answered."""
    answered = one.outcome == "answered"
    return {
        "id": one.request_id,
        "at_s": one.finished_at_us / 1e6,
        "caller": one.caller,
        "task": one.task,
        "model": one.model,
        "kind": one.kind,
        "reason": one.reason,
        "decided_by": one.decided_by,
        "similarity": round(one.similarity, 4),
        "confidence": one.confidence,
        "outcome": one.outcome,
        "prompt_tokens": one.prompt_token_count,
        "output_tokens": one.output_token_count,
        "first_token_s": None if one.first_token_us is None else one.first_token_us / 1e6,
        "total_s": one.total_us / 1e6,
        "cost_usd": usd(one.cost_nano_usd),
        "saved_usd": {
            name: usd(cost - one.cost_nano_usd) for name, cost in one.baselines.items() if answered
        },
    }


def history_json(points: tuple[Point, ...]) -> dict[str, Any]:
    """The points as columns, and the bars. Money: since the first point, cumulative."""
    overheads = [sum(one.overhead_nano_usd.values()) for one in points]
    costs = [one.cost_nano_usd for one in points]
    both = [one + other for one, other in zip(costs, overheads, strict=True)]
    names = sorted({name for one in points for name in one.baselines_nano_usd})
    return {
        "interval_s": INTERVAL_S,
        "kept_s": KEPT_S,
        "quantiles": list(QUANTILES),
        "at_s": [round(one.at_s, 1) for one in points],
        "requests_per_s": [_rate(sum(one.requests.values()), one) for one in points],
        "failed_per_s": [_rate(one.failed_count, one) for one in points],
        "output_tokens_per_s": [_rate(one.output_token_count, one) for one in points],
        "first_token_s": [_column([one.first_token_s[i] for one in points]) for i in _PLACES],
        "total_s": [_column([one.total_s[i] for one in points]) for i in _PLACES],
        "cost_usd": _running(costs),
        "effective_usd": _running(both),
        "baselines_usd": {
            name: _running([one.baselines_nano_usd.get(name, 0) for one in points])
            for name in names
        },
        "bar_s": BAR_S,
        "bars": [_bar_json(one) for one in to_bars(points, BAR_S)],
    }


_PLACES = range(len(QUANTILES))


def _rate(count: int, point: Point) -> float:
    return round(count / point.length_s, 3)


def _column(values: list[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 5) for value in values]


def _running(amounts: list[int]) -> list[str]:
    return [usd(amount) for amount in accumulate(amounts)]


def _bar_json(one: Bar) -> dict[str, Any]:
    return {
        "at_s": one.at_s,
        "requests": {name: count for name, count in one.requests.items() if count},
        "cost_usd": usd(one.cost_nano_usd),
        "overhead_usd": {state: usd(cost) for state, cost in one.overhead_nano_usd.items()},
    }
