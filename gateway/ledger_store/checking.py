"""Is the ledger whole? What `deltafleet ledger check` tells."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from gateway.ledger_store.database import BadLedger, Database
from gateway.ledger_store.tables import (
    BASELINE_COSTS,
    DAILY_BASELINE_COSTS,
    DAILY_SUMS,
    REQUESTS,
    WORKER_LIVES,
)


@dataclass(frozen=True, slots=True)
class Findings:
    """request_count: rows; folded_count: requests that are in daily sums alone."""

    request_count: int
    folded_count: int
    life_count: int
    problems: tuple[str, ...]


def check(database: Database) -> Findings:
    """Look at everything, in one moment; changes nothing. Its tables are of today's shape."""
    with database.begin_read() as connection:
        problems = [
            *_file_problems(database, connection),
            *_row_problems(connection),
            *_sum_problems(connection),
            *_life_problems(connection),
        ]
        counts = [
            connection.scalar(sa.select(sa.func.count()).select_from(table))
            for table in (REQUESTS, WORKER_LIVES)
        ]
        folded = connection.scalar(sa.select(sa.func.sum(DAILY_SUMS.c.request_count)))
    try:
        database.check_durable()
    except BadLedger as error:
        problems.append(str(error))
    return Findings(int(counts[0] or 0), int(folded or 0), int(counts[1] or 0), tuple(problems))


def _file_problems(database: Database, connection: sa.Connection) -> list[str]:
    if not database.is_sqlite:
        return []  # PostgreSQL's own tools look at its files
    found = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
    return [f"integrity_check: {line}" for line in found if line != "ok"]


def _row_problems(connection: sa.Connection) -> list[str]:
    orphans = sa.select(sa.func.count()).where(
        BASELINE_COSTS.c.row.not_in(sa.select(REQUESTS.c.row))
    )
    again = sa.select(REQUESTS.c.row_id).group_by(REQUESTS.c.row_id).having(sa.func.count() > 1)
    counts = {
        "baseline costs of no request": orphans,
        "row ids that several rows have": sa.select(sa.func.count()).select_from(again.subquery()),
        "rows with a number below 0": sa.select(sa.func.count()).where(_is_below_0(REQUESTS)),
    }
    return _counted(connection, counts)


def _sum_problems(connection: sa.Connection) -> list[str]:
    sums, costs = DAILY_SUMS, DAILY_BASELINE_COSTS
    same = sa.and_(*(sums.c[name] == costs.c[name] for name in ("day", "model", "task", "caller")))
    without = sa.select(sa.func.count()).where(~sa.exists().where(same).correlate(costs))
    more = sums.c.answered_count > sums.c.request_count
    counts = {
        "daily baseline costs of no daily sum": without.select_from(costs),
        "daily sums with more answers than requests": sa.select(sa.func.count()).where(more),
        "daily sums with a number below 0": sa.select(sa.func.count()).where(_is_below_0(sums)),
    }
    return _counted(connection, counts)


def _life_problems(connection: sa.Connection) -> list[str]:
    lives = WORKER_LIVES.c
    parts = lives.busy_us + lives.load_us + lives.switch_us
    counts = {
        "lives with a number below 0": sa.select(sa.func.count()).where(_is_below_0(WORKER_LIVES)),
        "lives that did more than they lasted": sa.select(sa.func.count()).where(
            parts > lives.uptime_us
        ),
    }
    return _counted(connection, counts)


def _is_below_0(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.or_(
        *(column < 0 for column in table.columns if isinstance(column.type, sa.BigInteger))
    )


def _counted(connection: sa.Connection, counts: dict[str, sa.Select[int]]) -> list[str]:
    found = {name: connection.scalar(query) for name, query in counts.items()}
    return [f"{name}: {count}" for name, count in found.items() if count]
