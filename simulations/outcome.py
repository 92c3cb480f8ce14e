"""A record in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from model_pool.switching import Policy, Priority, wait_bound_s
from simulations.engine import Record
from simulations.traffic import Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rates per second, times in seconds, shares of all time.

    queueing: arrival to the engine's having the request. latency: arrival to the last token. What
    has not happened at the end counts as happening then. goodput: answer tokens of finished
    requests that queued for max_wait_s at most. longest_wait: of a model with work for its turn;
    bound: what `wait_bound_s` allows.
    """

    token_rate: float
    goodput: float
    queueing_p50_s: float
    queueing_p99_s: float
    first_token_p50_s: float
    first_token_p99_s: float
    latency_p50_s: float
    latency_p99_s: float
    switch_rate: float
    switch_share: float
    recompute_share: float
    longest_wait_s: float
    bound_s: float


def outcome(record: Record, policy: Policy, cost_s: float) -> Outcome:
    """Sum up what came after the warm-up."""
    seconds = record.duration_s - record.warmup_s
    counted = [one for one in record.requests if one.arrival_s >= record.warmup_s]
    queueing = spans(record, counted, lambda one: one.admitted_s)
    first = spans(record, counted, lambda one: one.first_token_s)
    whole = spans(record, counted, lambda one: one.finished_s)
    waiting_count = max((count for _, count in record.waits), default=0)
    return Outcome(
        token_rate=record.output_token_count / seconds,
        goodput=_good_token_count(record, policy) / seconds,
        queueing_p50_s=quantile(queueing, 0.5),
        queueing_p99_s=quantile(queueing, 0.99),
        first_token_p50_s=quantile(first, 0.5),
        first_token_p99_s=quantile(first, 0.99),
        latency_p50_s=quantile(whole, 0.5),
        latency_p99_s=quantile(whole, 0.99),
        switch_rate=record.switch_count / seconds,
        switch_share=record.switch_s / seconds,
        recompute_share=record.recompute_s / seconds,
        longest_wait_s=max((wait_s for wait_s, _ in record.waits), default=0.0),
        bound_s=wait_bound_s(policy, waiting_count, cost_s),
    )


def spans(
    record: Record, requests: Iterable[Request], end: Callable[[Request], float]
) -> list[float]:
    """Seconds from arrival to an event."""
    ends = ((one, end(one)) for one in requests)
    return [
        (record.duration_s if math.isnan(end_s) else end_s) - one.arrival_s for one, end_s in ends
    ]


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which this share lies; nan of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def queueing_p99_by_priority(record: Record) -> dict[Priority, float]:
    """Seconds."""
    counted = [one for one in record.requests if one.arrival_s >= record.warmup_s]
    return {
        priority: quantile(
            spans(record, [one for one in counted if one.priority is priority], _admitted_s), 0.99
        )
        for priority in Priority
    }


def _admitted_s(request: Request) -> float:
    return request.admitted_s


def _good_token_count(record: Record, policy: Policy) -> int:
    return sum(
        one.output_count
        for one in record.requests
        if one.finished_s >= record.warmup_s and one.admitted_s - one.arrival_s <= policy.max_wait_s
    )
