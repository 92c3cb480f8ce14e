"""One finished request → metrics, ledger row, one log line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from prometheus_client import Gauge

from gateway.entry import Entry
from gateway.errors import CallerBudgetSpent, LedgerUnavailable, LimitsUnavailable
from gateway.forecast import CostForecast
from gateway.ledger_store import LedgerStore, RequestRow
from gateway.metrics import Metrics
from gateway.pricing import TokenPrice, baseline_costs_nano_usd
from gateway.router import Route
from gateway.token_counter import TokenCounter
from model_pool.call import time_left_s
from model_pool.errors import DeadlineExceeded, FleetError

log = logging.getLogger("gateway.access")


class Ledger:
    """Accounts for every request that was routed, however it ended.

    counter: for the baselines' tokenizers. on_finish: told of each that is in the ledger. clock:
    seconds, monotonic.
    """

    def __init__(
        self,
        store: LedgerStore,
        metrics: Metrics,
        forecast: CostForecast,
        baselines: Mapping[str, TokenPrice],
        counter: TokenCounter,
        *,
        on_finish: Callable[[Entry, RequestRow], None] = lambda entry, row: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._on_finish = on_finish
        self._store = store
        self._metrics = metrics
        self._forecast = forecast
        self._baselines = baselines
        self._counter = counter
        self._clock = clock
        self._writing: set[asyncio.Task[None]] = set()

    def entry(
        self,
        request_id: str,
        route: Route,
        prompt_texts: Sequence[str],
        *,
        caller: str = "",
    ) -> Accounted:
        """Account for what happens inside, as answered only where `finish` was called."""
        entry = Entry(request_id, route, prompt_texts, self._clock, caller=caller)
        return Accounted(self, entry, self._metrics.in_flight)

    async def broken_off(self, entry: Entry, error: BaseException) -> None:
        """See Accounted."""
        if not entry.outcome:
            await self._close(entry, _outcome(entry, error))

    async def finish(self, entry: Entry) -> None:
        """The answer is whole: durable when this returns, so that the caller may be told."""
        await self._close(entry, "answered")

    async def _close(self, entry: Entry, outcome: str) -> None:
        baselines = baseline_costs_nano_usd(
            self._baselines,
            self._counter.prompt_size(entry.prompt_texts),
            self._counter.answer_size(entry.output_text),
        )
        entry.close(outcome, baselines)
        row = entry.row(time.time_ns() // 1000)
        log.info("request_finished", extra={"request": _without_empty(row)})
        if outcome == "refused" and entry.last is None:
            # It used nothing, and who is to come again need not wait for a disk.
            task = asyncio.create_task(self._write_quietly(entry, row))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
            return
        await self._write(entry, row)

    async def _write_quietly(self, entry: Entry, row: RequestRow) -> None:
        try:
            await self._write(entry, row)
        except LedgerUnavailable:
            log.warning("refusal_not_recorded", extra={"request_id": entry.request_id})

    async def _write(self, entry: Entry, row: RequestRow) -> None:
        try:
            await self._store.append(row)
        except LedgerUnavailable:
            raise  # no row, and so no sum
        except BaseException:  # its caller is gone; the row is written all the same
            self._count(entry, row)
            raise
        self._count(entry, row)

    def _count(self, entry: Entry, row: RequestRow) -> None:
        metrics, model = self._metrics, row.model
        metrics.requests.labels(model, row.reason, row.outcome).inc(exemplar=entry.exemplar)
        metrics.prompt_tokens.labels(model).inc(row.prompt_token_count)
        metrics.output_tokens.labels(model).inc(row.output_token_count)
        metrics.cost.add(row.cost_nano_usd, model)
        for histogram, value_s in (
            (metrics.total, entry.total_s),
            (metrics.first_token, entry.first_token_s),
            (metrics.token_mean, entry.token_mean_s),
            (metrics.queue, entry.last.queue_s if entry.last else None),
        ):
            if value_s is not None:
                histogram.labels(model).observe(value_s, entry.exemplar)
        if entry.token_gaps_s:
            metrics.token_gap.labels(model).observe_all(entry.token_gaps_s, entry.exemplar)
        if row.outcome == "answered":
            self._forecast.learn(model, row.cost_nano_usd)
            for baseline, cost in row.baselines.items():
                metrics.baseline_cost.add(cost, model, baseline)
        self._on_finish(entry, row)


class Accounted:
    """A request that is accounted for where its `async with` block ends badly, too."""

    def __init__(self, ledger: Ledger, entry: Entry, in_flight: Gauge) -> None:
        self._ledger = ledger
        self._entry = entry
        self._in_flight = in_flight

    async def __aenter__(self) -> Entry:
        self._in_flight.inc()
        return self._entry

    async def __aexit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                await self._ledger.broken_off(self._entry, error)
        finally:
            self._in_flight.dec()


def _outcome(entry: Entry, error: BaseException) -> str:
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        left_s = time_left_s()  # a deadline cancels too
        return "deadline" if left_s is not None and left_s <= 0 else "cancelled"
    if isinstance(error, CallerBudgetSpent | LimitsUnavailable) and entry.last:
        return "cut"
    return "refused" if isinstance(error, FleetError) else "failed"


def _without_empty(row: RequestRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
