"""Sums of the ledger."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from deltafleet.v1 import cost_pb2, cost_pb2_grpc
from gateway.cost_report import (
    BadReport,
    Comparison,
    Group,
    Report,
    check_dimensions,
    check_window,
    make_report,
)
from gateway.ledger_store import LedgerStore, WorkerLife
from gateway.life_costs import life_costs
from gateway.price_list import PricedBaseline, age_days, plain, stale_names
from model_pool.errors import InvalidParameter


class CostServicer(cost_pb2_grpc.CostServiceServicer):
    """Says what was spent and what closed APIs would have charged.

    baselines: those of the configuration in force. now: the time, with its time zone; prices are as
    old as it says.
    """

    def __init__(
        self,
        store: LedgerStore,
        baselines: Callable[[], Mapping[str, PricedBaseline]],
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._store = store
        self._baselines = baselines
        self._now = now

    async def GetCostReport(
        self, request: cost_pb2.GetCostReportRequest, context: Any
    ) -> cost_pb2.GetCostReportResponse:
        """Sums over a time."""
        start = _time(request.start_time) if request.HasField("start_time") else None
        end = _time(request.end_time) if request.HasField("end_time") else None
        try:
            window, by = check_window(start, end), check_dimensions(request.by)
        except BadReport as error:
            raise InvalidParameter(str(error), field=error.field) from None
        lives = await self._store.lives()
        report = make_report(await self._store.sums(start, end, by), lives, window)
        return self._response(report, lives)

    def _response(
        self, report: Report, lives: Sequence[WorkerLife]
    ) -> cost_pb2.GetCostReportResponse:
        now, baselines = self._now(), self._baselines()
        stale = stale_names(baselines, now)
        return cost_pb2.GetCostReportResponse(
            workers=[_worker_cost(life) for life in lives],
            groups=[_group(one, stale) for one in report.groups],
            total=_group(report.total, stale),
            baselines=[_baseline(name, one, now) for name, one in sorted(baselines.items())],
            unallotted_nano_usd=report.unallotted_nano_usd,
        )


def _time(stamp: Timestamp) -> datetime.datetime:
    try:
        return stamp.ToDatetime(datetime.UTC)
    except (ValueError, OverflowError):
        raise InvalidParameter("start_time, end_time: not a time", field="start_time") from None


def _group(group: Group, stale: frozenset[str]) -> cost_pb2.CostGroup:
    made = cost_pb2.CostGroup(
        key=group.key,
        request_count=group.request_count,
        answered_count=group.answered_count,
        prompt_token_count=group.prompt_token_count,
        output_token_count=group.output_token_count,
        cost_nano_usd=group.cost_nano_usd,
        overhead_nano_usd=group.overhead_nano_usd,
        loading_nano_usd=group.overhead.loading_nano_usd,
        switching_nano_usd=group.overhead.switching_nano_usd,
        idle_nano_usd=group.overhead.idle_nano_usd,
        effective_cost_nano_usd=group.effective_cost_nano_usd,
        nano_usd_per_mtok_output=group.nano_usd_per_mtok_output,
        nano_usd_per_mtok=group.nano_usd_per_mtok,
        effective_nano_usd_per_mtok_output=group.effective_nano_usd_per_mtok_output,
        baselines=[_comparison(one, stale) for one in group.baselines],
    )
    made.busy_time.FromMicroseconds(group.busy_us)
    return made


def _comparison(compared: Comparison, stale: frozenset[str]) -> cost_pb2.BaselineComparison:
    return cost_pb2.BaselineComparison(
        baseline=compared.baseline,
        cost_nano_usd=compared.cost_nano_usd,
        saving_nano_usd=compared.saving_nano_usd,
        effective_saving_nano_usd=compared.effective_saving_nano_usd,
        break_even_requests_per_day=compared.break_even_requests_per_day,
        never_breaks_even=compared.never_breaks_even,
        price_is_stale=compared.baseline in stale,
    )


def _baseline(name: str, baseline: PricedBaseline, now: datetime.datetime) -> cost_pb2.Baseline:
    price = baseline.price
    cached = price.cached_input_usd_per_mtok
    return cost_pb2.Baseline(
        baseline=name,
        price=baseline.price_name,
        as_of=baseline.as_of.isoformat(),
        age_days=age_days(baseline.as_of, now),
        price_is_stale=baseline.is_stale(now),
        source=baseline.source,
        input_usd_per_mtok=plain(price.input_usd_per_mtok),
        cached_input_usd_per_mtok="" if cached is None else plain(cached),
        output_usd_per_mtok=plain(price.output_usd_per_mtok),
        characters_per_token=plain(price.characters_per_token),
        characters_per_token_is=baseline.characters_per_token_is,
        cached_input_share=plain(price.cached_input_share),
        reasoning_multiplier=plain(price.reasoning_multiplier),
        is_batch=baseline.is_batch,
        tokenizer=price.tokenizer or "",
    )


def _worker_cost(life: WorkerLife) -> cost_pb2.WorkerCost:
    costs = life_costs(life)
    cost = cost_pb2.WorkerCost(
        worker=life.worker,
        incarnation=life.incarnation,
        uptime_s=life.uptime_us / 1e6,
        busy_s=life.busy_us / 1e6,
        load_s=life.load_us / 1e6,
        switch_s=life.switch_us / 1e6,
        uptime_cost_nano_usd=sum(astuple(costs)),
        busy_cost_nano_usd=costs.busy_nano_usd,
        load_cost_nano_usd=costs.load_nano_usd,
        switch_cost_nano_usd=costs.switch_nano_usd,
        idle_cost_nano_usd=costs.idle_nano_usd,
    )
    cost.start_time.FromMicroseconds(life.started_at_us)
    return cost
