"""The last finished requests, as the page tells them: never a word of a prompt or an answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.ledger import Entry
from gateway.ledger_store import RequestRow

CAPACITY = 200
# Callers choose these names; the page is not theirs to fill.
LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
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


class RecentRequests:
    """The last `capacity` of them. Added to on the event loop, read on the page's thread."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._kept: deque[Finished] = deque(maxlen=capacity)
        self._lock = threading.Lock()

    def add(self, entry: Entry, row: RequestRow) -> None:
        """See `gateway.ledger.Ledger`, on_finish."""
        finished = to_finished(entry, row)
        with self._lock:
            self._kept.append(finished)

    def latest_first(self) -> list[Finished]:
        """Those that are kept."""
        with self._lock:
            return list(reversed(self._kept))


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
