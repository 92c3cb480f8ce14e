"""What the page shows, as JSON: made at most once a second, however many look."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib.metadata import version
from itertools import accumulate
from typing import Any

from gateway.configuration.configured import Configured
from gateway.configuration.current import Current
from gateway.fleet_models import engines, model_names_by_file
from gateway.fleet_service import FleetServicer
from gateway.page.books import LedgerBooks
from gateway.page.documents import Document
from gateway.page.finished import ANSWERED, Finished, FinishedRequests
from gateway.page.fleet import family_json, model_json, seconds_of, usd, worker_json
from gateway.page.history import BAR_S, INTERVAL_S, KEPT_S, QUANTILES, Bar, History, Point
from gateway.page.money import Books, money_json
from model_pool.pool import Pool

SNAPSHOT_S = 1.0
# Making a document takes at most this share of the time, however large the fleet is.
LARGEST_MAKING_SHARE = 0.05
# More colours cannot be told apart.
SHOWN_MODEL_COUNT = 9
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the page's facts come from."""

    current: Current
    pool: Pool
    fleet: FleetServicer
    finished: FinishedRequests
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
        self._money: tuple[Books, Configured, date, dict[str, Any]] | None = None
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
            heard = {name: one.last_word for name, one in sources.pool.members.items()}
            workers = {name: seconds_of(status) for name, status in heard.items() if status}
            sample = sources.finished.sums(self._now().timestamp(), workers)
            sources.history.add(sample)
            await asyncio.sleep(INTERVAL_S)

    async def _make_state(self) -> Document:
        sources, now = self._sources, self._now()
        configured = sources.current.now
        engine_of = engines(configured.settings)
        books = await sources.books.latest()
        models = sources.fleet.describe(sorted(configured.targets))
        read_at = sources.books.read_at
        return Document.of_json(
            {
                "now_s": now.timestamp(),
                "started_s": self._started_at.timestamp(),
                "version": version("deltafleet"),
                "workers": [
                    worker_json(member, engine_of.get(name, ""), sources.history.utilisation)
                    for name, member in sources.pool.members.items()
                ],
                "models": [model_json(one) for one in models],
                "family": family_json(models, model_names_by_file(configured.settings)),
                "recent": [recent_json(one) for one in sources.finished.latest_first()],
                "money": self._money_of(books, now) if books else None,
                "ledger_read_s": read_at.timestamp() if read_at else None,
                "ledger_failure": sources.books.failure,
            }
        )

    def _money_of(self, books: Books, now: datetime) -> dict[str, Any]:
        # The report takes a while where there were many workers' lives; prices age by the day.
        configured, kept = self._sources.current.now, self._money
        if kept and kept[0] is books and kept[1] is configured and kept[2] == now.date():
            return kept[3]
        told = money_json(books, configured.baselines, now)
        self._money = books, configured, now.date(), told
        return told

    async def _make_history(self) -> Document:
        history = self._sources.history
        return Document.of_json(history_json(history.points, history.bars))


class Snapshot:
    """A document that is made again only where the last one is too old, once for all who wait.

    kept_s: what is too old; longer where making it takes long. clock: seconds, monotonic. busy:
    seconds that this thread computed, waiting left out.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[Document]],
        kept_s: float,
        clock: Callable[[], float],
        busy: Callable[[], float] = time.thread_time,
    ) -> None:
        self._busy = busy
        self._make = make
        self._kept_s = kept_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._next_s = float("-inf")
        self._document: Document | None = None

    async def latest(self) -> Document:
        """The last one, or a new one. Raises what making it does."""
        async with self._lock:
            if self._document is None or self._clock() >= self._next_s:
                begun_s, busy_s = self._clock(), self._busy()
                self._document = await self._make()
                took_s = self._busy() - busy_s
                self._next_s = begun_s + max(self._kept_s, took_s / LARGEST_MAKING_SHARE)
            return self._document


def recent_json(one: Finished) -> dict[str, Any]:
    """A finished request. saved_usd: beside each baseline, where it was answered."""
    answered = one.outcome == ANSWERED
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


def history_json(points: Sequence[Point], bars: Sequence[Bar]) -> dict[str, Any]:
    """The points as columns, and the bars. Money: since the first point, cumulative."""
    overheads = [sum(one.overhead_nano_usd.values()) for one in points]
    costs = [one.cost_nano_usd for one in points]
    both = [one + other for one, other in zip(costs, overheads, strict=True)]
    names = sorted({name for one in points for name in one.baselines_nano_usd})
    shown = _busiest(bars)
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
        "bars": [_bar_json(one, shown) for one in bars],
    }


_PLACES = range(len(QUANTILES))


def _rate(count: int, point: Point) -> float:
    return round(count / point.length_s, 3)


def _column(values: list[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 5) for value in values]


def _running(amounts: list[int]) -> list[str]:
    return [usd(amount) for amount in accumulate(amounts)]


def _busiest(bars: Sequence[Bar]) -> frozenset[str]:
    """The models with the most requests, as many as can be told apart."""
    requests: Counter[str] = Counter()
    for one in bars:
        requests.update(one.requests)
    return frozenset(name for name, _ in requests.most_common(SHOWN_MODEL_COUNT))


def _bar_json(one: Bar, shown: frozenset[str]) -> dict[str, Any]:
    requests = {name: count for name, count in one.requests.items() if name in shown}
    others = sum(one.requests.values()) - sum(requests.values())
    return {
        "at_s": one.at_s,
        "requests": requests | ({OTHERS: others} if others else {}),
        "cost_usd": usd(one.cost_nano_usd),
        "overhead_usd": {state: usd(cost) for state, cost in one.overhead_nano_usd.items()},
    }
