"""One finished request → metrics, ledger row, one log line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from prometheus_client import Histogram

from deltafleet.v1 import inference_pb2
from gateway.errors import LedgerUnavailable
from gateway.forecast import CostForecast
from gateway.ledger_store import LedgerStore, RequestRow
from gateway.ledger_store.rows import new_row_id
from gateway.metrics import Metrics
from gateway.pricing import TokenPrice, baseline_costs_nano_usd
from gateway.router import Route
from model_pool.errors import DeadlineExceeded, FleetError
from model_pool.rpc import current_trace, time_left_s

log = logging.getLogger("gateway.access")


@dataclass(frozen=True, slots=True)
class AnswerPiece:
    """Some more of an answer, from a worker or a closed API; all but text is cumulative.

    mean_logprob: in the last piece of a worker that was asked for it, as in worker.proto.
    """

    text: str
    prompt_token_count: int
    output_token_count: int
    cost_nano_usd: int
    finish_reason: inference_pb2.FinishReason.ValueType
    busy_s: float = 0.0
    worker: str = ""
    weights_digest: str = ""
    mean_logprob: float | None = None
    queue_s: float | None = None  # waited before the first step; None: not known


class Entry:
    """One request as it happens.

    prompt_character_count: of every message, for the baselines' own token counts. caller: as it
    names itself. trace_id: the sampled W3C trace, in hexadecimal. Either is empty where unknown.
    """

    def __init__(
        self,
        request_id: str,
        route: Route,
        prompt_character_count: int,
        clock: Callable[[], float],
        *,
        caller: str = "",
    ) -> None:
        self.request_id = request_id
        self.caller = caller
        self._row_id = new_row_id()
        self.route = route
        self._prompt_character_count = prompt_character_count
        self._output_character_count = 0
        self._clock = clock
        self._started_s = clock()
        self.trace_id = current_trace.get()
        self.exemplar = {"trace_id": self.trace_id} if self.trace_id else None
        self.first_token_s: float | None = None
        self.token_gaps_s: list[float] = []  # per token, of each piece after the first
        self.token_mean_s: float | None = None  # of all tokens after the first piece
        self._first_count = 0
        self._last_token_s = 0.0
        self.total_s = 0.0
        self.last: AnswerPiece | None = None
        self.outcome = ""
        self.baselines: dict[str, int] = {}

    def add(self, piece: AnswerPiece) -> None:
        """Take a piece of the answer into account."""
        count = self.last.output_token_count if self.last else 0
        if piece.output_token_count > count:
            self._time_tokens(piece.output_token_count, piece.output_token_count - count)
        self._output_character_count += len(piece.text)
        self.last = piece

    def settle(self, rest: AnswerPiece) -> None:
        """What an answer that was broken off used beyond what its pieces told."""
        if self.last is None:
            self.last = rest
            return
        self.last = replace(
            self.last,
            prompt_token_count=self.last.prompt_token_count + rest.prompt_token_count,
            output_token_count=self.last.output_token_count + rest.output_token_count,
            cost_nano_usd=self.last.cost_nano_usd + rest.cost_nano_usd,
            busy_s=self.last.busy_s + rest.busy_s,
            worker=self.last.worker or rest.worker,
        )

    def _time_tokens(self, token_count: int, new_count: int) -> None:
        now_s = self._clock() - self._started_s
        if self.first_token_s is None:
            self.first_token_s, self._first_count = now_s, token_count
        else:
            self.token_gaps_s.append((now_s - self._last_token_s) / new_count)
            later_count = token_count - self._first_count
            if later_count > 0:
                self.token_mean_s = (now_s - self.first_token_s) / later_count
        self._last_token_s = now_s

    def close(self, outcome: str, prices: Mapping[str, TokenPrice]) -> None:
        """Nothing more comes."""
        self.outcome = outcome
        self.total_s = self._clock() - self._started_s
        self.baselines = baseline_costs_nano_usd(
            prices, self._prompt_character_count, self._output_character_count
        )

    def row(self, finished_at_us: int) -> RequestRow:
        """What the ledger keeps of it."""
        last = self.last
        return RequestRow(
            request_id=self.request_id,
            finished_at_us=finished_at_us,
            model=self.route.target.name,
            task=self.route.task,
            reason=self.route.reason.value,
            outcome=self.outcome,
            worker=last.worker if last else "",
            weights_digest=last.weights_digest if last else "",
            prompt_token_count=last.prompt_token_count if last else 0,
            output_token_count=last.output_token_count if last else 0,
            busy_us=round(last.busy_s * 1e6) if last else 0,
            first_token_us=None if self.first_token_s is None else round(self.first_token_s * 1e6),
            total_us=round(self.total_s * 1e6),
            cost_nano_usd=last.cost_nano_usd if last else 0,
            baselines=self.baselines,
            caller=self.caller,
            trace_id=self.trace_id,
            row_id=self._row_id,
        )


class Ledger:
    """Accounts for every request that was routed, however it ended.

    on_finish: told of each that is in the ledger. clock: seconds, monotonic.
    """

    def __init__(
        self,
        store: LedgerStore,
        metrics: Metrics,
        forecast: CostForecast,
        baselines: Mapping[str, TokenPrice],
        *,
        on_finish: Callable[[Entry, RequestRow], None] = lambda entry, row: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._on_finish = on_finish
        self._store = store
        self._metrics = metrics
        self._forecast = forecast
        self._baselines = baselines
        self._clock = clock

    @contextlib.asynccontextmanager
    async def entry(
        self,
        request_id: str,
        route: Route,
        prompt_character_count: int,
        *,
        caller: str = "",
    ) -> AsyncIterator[Entry]:
        """Account for what happens inside, as answered only where `finish` was called."""
        entry = Entry(
            request_id,
            route,
            prompt_character_count,
            self._clock,
            caller=caller,
        )
        self._metrics.in_flight.inc()
        try:
            yield entry
        except BaseException as error:
            if not entry.outcome:
                await self._close(entry, _outcome(error))
            raise
        finally:
            self._metrics.in_flight.dec()

    async def finish(self, entry: Entry) -> None:
        """The answer is whole: durable when this returns, so that the caller may be told."""
        await self._close(entry, "answered")

    async def _close(self, entry: Entry, outcome: str) -> None:
        entry.close(outcome, self._baselines)
        row = entry.row(time.time_ns() // 1000)
        log.info("request_finished", extra={"request": _without_empty(row)})
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
        for histogram, seconds in (
            (metrics.total, [entry.total_s]),
            (metrics.first_token, [entry.first_token_s]),
            (metrics.token_mean, [entry.token_mean_s]),
            (metrics.token_gap, entry.token_gaps_s),
            (metrics.queue, [entry.last.queue_s if entry.last else None]),
        ):
            _observe(histogram.labels(model), seconds, entry.exemplar)
        if row.outcome == "answered":
            self._forecast.learn(model, row.cost_nano_usd)
            for baseline, cost in row.baselines.items():
                metrics.baseline_cost.add(cost, model, baseline)
        self._on_finish(entry, row)


def _observe(
    histogram: Histogram, seconds: Sequence[float | None], exemplar: dict[str, str] | None
) -> None:
    for value in seconds:
        if value is not None:
            histogram.observe(value, exemplar)


def _outcome(error: BaseException) -> str:
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        left_s = time_left_s()  # a deadline cancels too
        return "deadline" if left_s is not None and left_s <= 0 else "cancelled"
    return "refused" if isinstance(error, FleetError) else "failed"


def _without_empty(row: RequestRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
