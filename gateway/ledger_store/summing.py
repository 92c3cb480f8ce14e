"""Rows and daily sums → sums by any of model, task, caller and day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from gateway.ledger_store.database import Database
from gateway.ledger_store.rows import DIMENSIONS, Sums
from gateway.ledger_store.tables import (
    BASELINE_COSTS,
    COUNTS,
    DAILY_BASELINE_COSTS,
    DAILY_SUMS,
    DAY_US,
    FINISHED_DAY,
    IS_ANSWERED,
    REQUESTS,
    count_columns,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Key = tuple[Any, ...]


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch, exactly. moment: with its zone."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def read_sums(
    database: Database, start: datetime | None, end: datetime | None, by: Sequence[str]
) -> list[Sums]:
    """Sums over the requests that finished in [start, end), one for each key, in the keys' order.

    A folded day is of the time that its first moment is in, wholly. Raises ValueError for a
    dimension that there is not.
    """
    strange = set(by) - set(DIMENSIONS)
    if strange or len(set(by)) != len(by):
        raise ValueError(f"by: any of {', '.join(DIMENSIONS)}, each once, not {', '.join(by)}")
    counts: dict[Key, list[int]] = {}
    baselines: dict[Key, dict[str, int]] = {}
    with database.begin_read() as connection:
        for query in _count_queries(start, end, by):
            for key, values in _keyed(connection, query, len(by)):
                found = counts.setdefault(key, [0] * len(COUNTS))
                counts[key] = [one + int(other) for one, other in zip(found, values, strict=True)]
        for query in _baseline_queries(start, end, by):
            for key, (name, cost) in _keyed(connection, query, len(by)):
                costs = baselines.setdefault(key, {})
                costs[name] = costs.get(name, 0) + int(cost)
    return [
        Sums(
            key={name: _shown(value) for name, value in zip(by, key, strict=True)},
            **dict(zip(COUNTS, counts[key], strict=True)),
            baselines=dict(sorted(baselines.get(key, {}).items())),
        )
        for key in sorted(counts)
    ]


def read_spent(database: Database, caller: str, start: datetime) -> int:
    """Nano-dollars of a caller's requests that finished since then. start: a day's first moment."""
    spent = 0
    with database.begin_read() as connection:
        for table, moment_us in (
            (REQUESTS, REQUESTS.c.finished_at_us),
            (DAILY_SUMS, DAILY_SUMS.c.day * DAY_US),
        ):
            cost = sa.func.coalesce(sa.func.sum(table.c.cost_nano_usd), 0)
            query = sa.select(cost).where(table.c.caller == caller, moment_us >= to_us(start))
            spent += int(connection.execute(query).scalar_one())
    return spent


def within(start: datetime | None, end: datetime | None) -> sa.ColumnElement[bool]:
    """Requests that finished in [start, end)."""
    return _between(REQUESTS.c.finished_at_us, start, end)


def _between(
    moment_us: sa.ColumnElement[int], start: datetime | None, end: datetime | None
) -> sa.ColumnElement[bool]:
    limits: list[sa.ColumnElement[bool]] = []
    if start is not None:
        limits.append(moment_us >= to_us(start))
    if end is not None:
        limits.append(moment_us < to_us(end))
    return sa.and_(sa.true(), *limits)


def _count_queries(
    start: datetime | None, end: datetime | None, by: Sequence[str]
) -> Iterator[sa.Select[Any]]:
    keys = [FINISHED_DAY if name == "day" else REQUESTS.c[name] for name in by]
    yield sa.select(*keys, *count_columns()).where(within(start, end)).group_by(*_places(keys))
    keys = [DAILY_SUMS.c[name] for name in by]
    sums = [sa.func.sum(DAILY_SUMS.c[name]) for name in COUNTS]
    limits = _between(DAILY_SUMS.c.day * DAY_US, start, end)
    yield sa.select(*keys, *sums).where(limits).group_by(*_places(keys))


def _baseline_queries(
    start: datetime | None, end: datetime | None, by: Sequence[str]
) -> Iterator[sa.Select[Any]]:
    keys = [FINISHED_DAY if name == "day" else REQUESTS.c[name] for name in by]
    keys.append(BASELINE_COSTS.c.baseline)
    yield (
        sa.select(*keys, sa.func.sum(BASELINE_COSTS.c.cost_nano_usd))
        .join_from(BASELINE_COSTS, REQUESTS, BASELINE_COSTS.c.row == REQUESTS.c.row)
        .where(within(start, end), IS_ANSWERED)
        .group_by(*_places(keys))
    )
    table = DAILY_BASELINE_COSTS
    keys = [table.c[name] for name in (*by, "baseline")]
    limits = _between(table.c.day * DAY_US, start, end)
    yield (
        sa.select(*keys, sa.func.sum(table.c.cost_nano_usd)).where(limits).group_by(*_places(keys))
    )


def _places(keys: Sequence[object]) -> list[sa.ColumnElement[Any]]:
    return [sa.literal_column(str(1 + place)) for place in range(len(keys))]


def _keyed(
    connection: sa.Connection, query: sa.Select[Any], key_length: int
) -> Iterator[tuple[Key, Key]]:
    for row in connection.execute(query):
        if key_length or row[0]:  # without a key there is one row, also of nothing
            yield tuple(row[:key_length]), tuple(row[key_length:])


def _shown(value: str | int) -> str:
    if isinstance(value, int):
        return (date(1970, 1, 1) + timedelta(days=value)).isoformat()
    return value
