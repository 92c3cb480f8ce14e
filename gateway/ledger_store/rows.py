"""What the ledger keeps, as Python sees it. Money: nano-dollars; times: microseconds of UTC."""

from __future__ import annotations

from dataclasses import dataclass, field

from model_pool.call import new_uuid

DIMENSIONS = ("model", "task", "caller", "day")


def new_row_id() -> str:
    """A name for one row, so that writing it twice is writing it once."""
    return new_uuid()


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One finished request. Never its prompt. baselines: name → nano-dollars.

    row_id: unique; two rows of the same id are one. caller, trace_id: empty where unknown.
    """

    request_id: str
    finished_at_us: int
    model: str
    task: str
    reason: str
    outcome: str
    worker: str
    weights_digest: str
    prompt_token_count: int
    output_token_count: int
    busy_us: int
    first_token_us: int | None
    total_us: int
    cost_nano_usd: int
    baselines: dict[str, int]
    caller: str = ""
    trace_id: str = ""
    row_id: str = field(default_factory=new_row_id)


@dataclass(frozen=True, slots=True)
class WorkerLife:
    """One worker process from its start to its last word.

    No moment is in two of busy_us (computing), load_us (building weights) and switch_us (changing
    the live ones).
    """

    incarnation: str
    worker: str
    started_at_us: int
    uptime_us: int
    busy_us: int
    load_us: int
    switch_us: int
    price_nano_usd_per_hour: int

    @property
    def idle_us(self) -> int:
        """In which it did none of them."""
        return self.uptime_us - self.busy_us - self.load_us - self.switch_us


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the rows that have one key: a value for each dimension asked for.

    A day is written YYYY-MM-DD, of UTC, and is the one in which the request finished. baselines and
    answered_cost_nano_usd: over the answered ones.
    """

    key: dict[str, str]
    request_count: int = 0
    answered_count: int = 0
    prompt_token_count: int = 0
    output_token_count: int = 0
    busy_us: int = 0
    cost_nano_usd: int = 0
    answered_cost_nano_usd: int = 0
    baselines: dict[str, int] = field(default_factory=dict)
