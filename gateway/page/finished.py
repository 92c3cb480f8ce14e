"""Finished requests, as the page tells them: never a word of a prompt or an answer."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.entry import Entry
from gateway.ledger_store import RequestRow
from gateway.metrics import FIRST_TOKEN_BUCKETS_S, REQUEST_BUCKETS_S
from gateway.page.history import Buckets, Sample, WorkerSeconds

CAPACITY = 200
# Callers choose these names; the page is not theirs to fill.
LONGEST_NAME = 80
ANSWERED = "answered"
FIRST_TOKEN_BOUNDS_S = (*FIRST_TOKEN_BUCKETS_S, float("inf"))
REQUEST_BOUNDS_S = (*REQUEST_BUCKETS_S, float("inf"))


@dataclass(slots=True)  # freezing it takes longer than all the rest of what is done with it
class Finished:
    """One request and how it was routed.

    request_id, caller: their first LONGEST_NAME letters. similarity: of the task, -1 to 1.
    confidence: of the first answer of a cascade, 0 to 1; None where nobody asked. first_token_us,
    total_us: microseconds since it was received. Money: nano-dollars; baselines: name → what that
    would have charged.
    """

    request_id: str
    finished_at_us: int
    caller: str
    task: str
    model: str
    kind: str
    reason: str
    decided_by: str
    similarity: float
    confidence: float | None
    outcome: str
    prompt_token_count: int
    output_token_count: int
    first_token_us: int | None
    total_us: int
    cost_nano_usd: int
    baselines: Mapping[str, int]


class FinishedRequests:
    """The last `capacity` of them, and sums of all. Added to on the event loop, read on the page's
    thread.

    The sums are Prometheus's counters once more: reading those takes a time that grows with models
    and buckets, too long for every few seconds.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._kept: deque[Finished] = deque(maxlen=capacity)
        self._requests: Counter[str] = Counter()
        self._baselines: Counter[str] = Counter()
        self._failed_count = 0
        self._output_token_count = 0
        self._cost_nano_usd = 0
        self._first_token = [0] * len(FIRST_TOKEN_BOUNDS_S)
        self._total = [0] * len(REQUEST_BOUNDS_S)
        self._lock = threading.Lock()

    def add(self, entry: Entry, row: RequestRow) -> None:
        """See `gateway.ledger.Ledger`, on_finish."""
        finished = to_finished(entry, row)
        with self._lock:
            self._kept.append(finished)
            self._count(finished)

    def _count(self, one: Finished) -> None:
        is_answered = one.outcome == ANSWERED
        self._failed_count += not is_answered
        self._output_token_count += one.output_token_count
        self._cost_nano_usd += one.cost_nano_usd
        self._requests[one.model] += 1
        if is_answered:
            self._baselines.update(one.baselines)
        self._total[bisect_left(REQUEST_BOUNDS_S, one.total_us / 1e6)] += 1
        if one.first_token_us is not None:
            self._first_token[bisect_left(FIRST_TOKEN_BOUNDS_S, one.first_token_us / 1e6)] += 1

    def latest_first(self) -> list[Finished]:
        """Those that are kept."""
        with self._lock:
            return list(reversed(self._kept))

    def sums(self, at_s: float, workers: Mapping[str, WorkerSeconds]) -> Sample:
        """All that ended until now, as a sample of that moment."""
        with self._lock:
            return Sample(
                at_s=at_s,
                failed_count=self._failed_count,
                output_token_count=self._output_token_count,
                cost_nano_usd=self._cost_nano_usd,
                requests=dict(self._requests),
                baselines_nano_usd=dict(self._baselines),
                workers=workers,
                first_token=Buckets(FIRST_TOKEN_BOUNDS_S, tuple(self._first_token)),
                total=Buckets(REQUEST_BOUNDS_S, tuple(self._total)),
            )


def to_finished(entry: Entry, row: RequestRow) -> Finished:
    """What is told of a request that ended."""
    route = entry.route
    asked = [one.confidence for one in route.contributions if one.confidence is not None]
    return Finished(
        request_id=row.request_id[:LONGEST_NAME],
        finished_at_us=row.finished_at_us,
        caller=row.caller[:LONGEST_NAME],
        task=row.task,
        model=row.model,
        kind=route.target.kind.value,
        reason=row.reason,
        decided_by=route.decided_by,
        similarity=route.similarity,
        confidence=asked[0] if asked else None,
        outcome=row.outcome,
        prompt_token_count=row.prompt_token_count,
        output_token_count=row.output_token_count,
        first_token_us=row.first_token_us,
        total_us=row.total_us,
        cost_nano_usd=row.cost_nano_usd,
        baselines=row.baselines,
    )
