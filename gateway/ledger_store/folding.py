"""Old requests → daily sums, so that reports keep their totals and the rows may go."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from gateway.ledger_store.database import Database, insert_into
from gateway.ledger_store.summing import to_us
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

FOLD_ROW_COUNT = 5_000  # in one transaction, which holds up appends to SQLite while it lasts
_KEYS = ("day", "model", "task", "caller")


def first_kept_us(now: datetime, keep_days: int) -> int:
    """The beginning of the oldest day (UTC) that is kept: today and keep_days before it are."""
    return (to_us(now) // DAY_US - keep_days) * DAY_US


def fold_some(database: Database, before_us: int, row_count: int = FOLD_ROW_COUNT) -> int:
    """Fold up to row_count requests that finished before then, in one transaction; how many.

    At every moment a request is either a row or in the sums of its day, never both or neither.
    before_us: the beginning of a day.
    """
    with database.begin_fold() as connection:
        oldest = (
            sa.select(REQUESTS.c.row)
            .where(REQUESTS.c.finished_at_us < before_us)
            .order_by(REQUESTS.c.row)
            .limit(row_count)
        )
        last = connection.scalar(sa.select(sa.func.max(oldest.subquery().c.row)))
        if last is None:
            return 0
        are_old = sa.and_(REQUESTS.c.finished_at_us < before_us, REQUESTS.c.row <= last)
        _add_sums(connection, are_old)
        _add_baseline_costs(connection, are_old)
        rows = sa.select(REQUESTS.c.row).where(are_old)
        connection.execute(sa.delete(BASELINE_COSTS).where(BASELINE_COSTS.c.row.in_(rows)))
        return int(connection.execute(sa.delete(REQUESTS).where(are_old)).rowcount)


def _add_sums(connection: sa.Connection, are_old: sa.ColumnElement[bool]) -> None:
    keys = [FINISHED_DAY, *(REQUESTS.c[name] for name in _KEYS[1:])]
    query = sa.select(*keys, *count_columns()).where(are_old).group_by(*_places(len(keys)))
    _add(connection, DAILY_SUMS, (*_KEYS, *COUNTS), query)


def _add_baseline_costs(connection: sa.Connection, are_old: sa.ColumnElement[bool]) -> None:
    keys = [FINISHED_DAY, *(REQUESTS.c[name] for name in _KEYS[1:]), BASELINE_COSTS.c.baseline]
    query = (
        sa.select(*keys, sa.func.sum(BASELINE_COSTS.c.cost_nano_usd))
        .join_from(BASELINE_COSTS, REQUESTS, BASELINE_COSTS.c.row == REQUESTS.c.row)
        .where(are_old, IS_ANSWERED)
        .group_by(*_places(len(keys)))
    )
    _add(connection, DAILY_BASELINE_COSTS, (*_KEYS, "baseline", "cost_nano_usd"), query)


def _add(
    connection: sa.Connection,
    table: sa.Table,
    names: tuple[str, ...],
    query: sa.Select[*tuple[object, ...]],
) -> None:
    insert = insert_into(connection, table).from_select(list(names), query)
    keys = [column.name for column in table.primary_key]
    sums = {name: table.c[name] + insert.excluded[name] for name in names if name not in keys}
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=sums))


def _places(count: int) -> list[sa.ColumnElement[object]]:
    return [sa.literal_column(str(1 + place)) for place in range(count)]
