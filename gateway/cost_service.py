"""Sums of the ledger."""

from __future__ import annotations

import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from deltafleet.v1 import cost_pb2, cost_pb2_grpc, inference_pb2
from gateway.ledger_store import LedgerStore, Sums, WorkerLife
from gateway.pricing import time_cost_nano_usd
from model_pool.errors import InvalidParameter


class CostServicer(cost_pb2_grpc.CostServiceServicer):
    """Says what was spent and what closed APIs would have charged."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    async def GetCostReport(
        self, request: cost_pb2.GetCostReportRequest, context: Any
    ) -> cost_pb2.GetCostReportResponse:
        """Sums over a time."""
        start = _time(request.start_time) if request.HasField("start_time") else None
        end = _time(request.end_time) if request.HasField("end_time") else None
        if start and end and end <= start:
            raise InvalidParameter("end_time: not after start_time", field="end_time")
        return cost_pb2.GetCostReportResponse(
            models=[
                _model_cost(sums) for sums in await self._store.sums(start, end, by=("model",))
            ],
            workers=[_worker_cost(life) for life in await self._store.lives()],
        )


def _time(stamp: Timestamp) -> datetime.datetime:
    try:
        return stamp.ToDatetime(datetime.UTC)
    except (ValueError, OverflowError):
        raise InvalidParameter("start_time, end_time: not a time", field="start_time") from None


def _model_cost(sums: Sums) -> cost_pb2.ModelCost:
    return cost_pb2.ModelCost(
        model=sums.key["model"],
        request_count=sums.request_count,
        answered_count=sums.answered_count,
        prompt_token_count=sums.prompt_token_count,
        output_token_count=sums.output_token_count,
        cost_nano_usd=sums.cost_nano_usd,
        baselines=[
            inference_pb2.BaselineCost(baseline=name, cost_nano_usd=cost)
            for name, cost in sorted(sums.baselines.items())
        ],
    )


def _worker_cost(life: WorkerLife) -> cost_pb2.WorkerCost:
    idle_s = max(0.0, life.uptime_s - life.busy_s - life.load_s)
    cost = cost_pb2.WorkerCost(
        worker=life.worker,
        incarnation=life.incarnation,
        uptime_s=life.uptime_s,
        busy_s=life.busy_s,
        load_s=life.load_s,
        uptime_cost_nano_usd=time_cost_nano_usd(life.uptime_s, life.price_nano_usd_per_hour),
        idle_cost_nano_usd=time_cost_nano_usd(idle_s, life.price_nano_usd_per_hour),
    )
    cost.start_time.FromMicroseconds(life.started_at_us)
    return cost
