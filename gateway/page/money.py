"""Sums of the ledger and workers' lives → what the page tells of money. Pure.

Every amount is an exact decimal number of USD, as text: nothing is added up after this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.cost_report import Comparison, Group, Window, make_report
from gateway.ledger_store import Sums, WorkerLife
from gateway.ledger_store.summing import EPOCH
from gateway.ledger_store.tables import COUNTS
from gateway.page.fleet import usd
from gateway.price_list import PricedBaseline, age_days

SHOWN_DAYS = 60


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger had when it was read. sums: by day and model."""

    sums: Sequence[Sums] = ()
    lives: Sequence[WorkerLife] = ()


def grouped(sums: Iterable[Sums], dimension: str) -> list[Sums]:
    """Sums of several dimensions added up by one of them."""
    groups: dict[str, list[Sums]] = {}
    for one in sums:
        groups.setdefault(one.key[dimension], []).append(one)
    return [_added({dimension: value}, group) for value, group in sorted(groups.items())]


def _added(key: dict[str, str], sums: Sequence[Sums]) -> Sums:
    baselines: Counter[str] = Counter()
    for one in sums:
        baselines.update(one.baselines)
    counts = {name: sum(getattr(one, name) for one in sums) for name in COUNTS}
    return Sums(key=key, **counts, baselines=dict(sorted(baselines.items())))


def money_json(
    books: Books, baselines: Mapping[str, PricedBaseline], now: datetime
) -> dict[str, Any]:
    """All that was ever spent, by model and by day, beside each baseline. now: with its zone."""
    report = make_report(grouped(books.sums, "model"), books.lives, Window())
    return {
        "total": group_json(report.total),
        "models": {one.key["model"]: group_json(one) for one in report.groups},
        "days": days_json(books, now),
        "baselines": [baseline_json(name, one, now) for name, one in sorted(baselines.items())],
    }


def group_json(group: Group) -> dict[str, Any]:
    """What a group of requests cost. overhead_usd: its share of what computed nothing."""
    return {
        "requests": group.request_count,
        "answered": group.answered_count,
        "prompt_tokens": group.prompt_token_count,
        "output_tokens": group.output_token_count,
        "cost_usd": usd(group.cost_nano_usd),
        "overhead_usd": usd(group.overhead_nano_usd),
        "effective_usd": usd(group.effective_cost_nano_usd),
        "usd_per_mtok_output": _optional(group.nano_usd_per_mtok_output),
        "effective_usd_per_mtok_output": _optional(group.effective_nano_usd_per_mtok_output),
        "baselines": {one.baseline: comparison_json(one) for one in group.baselines},
    }


def comparison_json(one: Comparison) -> dict[str, Any]:
    """A group beside one baseline. saved_share: of what it would have charged; None: nothing."""
    return {
        "cost_usd": usd(one.cost_nano_usd),
        "saved_usd": usd(one.saving_nano_usd),
        "saved_share": _share(one.saving_nano_usd, one.cost_nano_usd),
        "effective_saved_usd": usd(one.effective_saving_nano_usd),
        "effective_saved_share": _share(one.effective_saving_nano_usd, one.cost_nano_usd),
        "break_even_requests_per_day": one.break_even_requests_per_day,
        "never_breaks_even": one.never_breaks_even,
    }


def baseline_json(name: str, one: PricedBaseline, now: datetime) -> dict[str, Any]:
    """What is compared with."""
    return {
        "name": name,
        "price": one.price_name,
        "as_of": one.as_of.isoformat(),
        "age_days": age_days(one.as_of, now),
        "is_stale": one.is_stale(now),
        "source": one.source,
    }


def days_json(books: Books, now: datetime) -> list[dict[str, Any]]:
    """The last days, from the first one of them on which there was anything to today."""
    sums = {one.key["day"]: one for one in grouped(books.sums, "day")}
    shown = _shown_days(sums, books.lives, now)
    return [_day_json(day, sums.get(day), books.lives) for day in shown]


def _shown_days(sums: Mapping[str, Sums], lives: Sequence[WorkerLife], now: datetime) -> list[str]:
    today = now.astimezone(UTC).date()
    begun = [*sums, *(_day_of(life.started_at_us) for life in lives)]
    days = [(today - timedelta(days=back)).isoformat() for back in reversed(range(SHOWN_DAYS))]
    first = min(begun, default=days[-1])
    return [day for day in days if day >= first]


def _day_of(moment_us: int) -> str:
    return (EPOCH + timedelta(microseconds=moment_us)).date().isoformat()


def _day_json(day: str, sums: Sums | None, lives: Sequence[WorkerLife]) -> dict[str, Any]:
    window = Window().of_day(day)
    within = [life for life in lives if _overlaps(life, window)]
    overhead = make_report([], within, window).total.overhead
    sums = sums or Sums(key={"day": day})
    return {
        "day": day,
        "requests": sums.request_count,
        "cost_usd": usd(sums.cost_nano_usd),
        "overhead_usd": {
            "load": usd(overhead.loading_nano_usd),
            "switch": usd(overhead.switching_nano_usd),
            "idle": usd(overhead.idle_nano_usd),
        },
        "effective_usd": usd(sums.cost_nano_usd + overhead.nano_usd),
        "baselines_usd": {name: usd(cost) for name, cost in sums.baselines.items()},
    }


def _overlaps(life: WorkerLife, window: Window) -> bool:
    start, end = window.elapsed_us(life.started_at_us, life.uptime_us)
    return end > start


def _optional(nano_usd: int | None) -> str | None:
    return None if nano_usd is None else usd(nano_usd)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
