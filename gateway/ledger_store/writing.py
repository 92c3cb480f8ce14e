"""Rows into the ledger. Every write is safe to do twice: what is there is not written again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from gateway.ledger_store.database import Database, insert_into
from gateway.ledger_store.rows import RequestRow, WorkerLife
from gateway.ledger_store.tables import BASELINE_COSTS, REQUESTS, WORKER_LIVES

_COLUMNS = tuple(name for name in RequestRow.__dataclass_fields__ if name != "baselines")
_values_of = attrgetter(*_COLUMNS)
Values = tuple[str | int | None, ...]
# SQLite numbers rows upwards: within a transaction, which nobody else's writes are in, those above
# the last one before it are new.
_LAST_ROW = "SELECT coalesce(max(row), 0) FROM requests"
_INSERT_ROWS = (
    f"INSERT INTO requests ({', '.join(_COLUMNS)}) VALUES {{}} ON CONFLICT (row_id) DO NOTHING"
)
_INSERT_COSTS = (
    "WITH given (row_id, baseline, cost) AS (VALUES {})"
    " INSERT INTO baseline_costs (row, baseline, cost_nano_usd)"
    " SELECT row, baseline, cost FROM given CROSS JOIN requests USING (row_id) WHERE row > ?"
)
_LONGEST_LIST = 64  # of values in a statement; the driver keeps those of each length prepared


def insert_rows(database: Database, rows: Sequence[RequestRow]) -> None:
    """All of them or none, in one transaction; a row whose row_id is there stays as it is."""
    with database.begin() as connection:
        if not database.is_sqlite:
            _insert_into_postgres(connection, rows)
            return
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        try:
            _insert_into_sqlite(driver, rows)
        except sqlite3.Error as error:  # as SQLAlchemy raises it, and without the values
            raise DBAPIError.instance(None, None, error, sqlite3.Error) from error


def _insert_into_sqlite(connection: sqlite3.Connection, rows: Sequence[RequestRow]) -> None:
    """By the driver's own words, which take a fraction of the time of building the same statements:
    this is done for every request. Many rows in one step: after each, this thread has to wait until
    the event loop's lets it go on.
    """
    (last_row,) = connection.execute(_LAST_ROW).fetchone()
    for values in _lists([_values_of(row) for row in rows]):
        connection.execute(_INSERT_ROWS.format(_places(values)), [*chain(*values)])
    baselines = {row.row_id: row.baselines for row in rows}
    costs = [
        (row_id, name, cost) for row_id, named in baselines.items() for name, cost in named.items()
    ]
    for values in _lists(costs):
        connection.execute(_INSERT_COSTS.format(_places(values)), [*chain(*values), last_row])


def _lists(values: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """All of them, in lists of few different lengths."""
    at, length = 0, _LONGEST_LIST
    while at < len(values):
        while length > len(values) - at:
            length //= 2
        yield values[at : at + length]
        at += length


def _places(values: Sequence[Values]) -> str:
    one = f"({', '.join('?' * len(values[0]))})"
    return ", ".join([one] * len(values))


def _insert_into_postgres(connection: sa.Connection, rows: Sequence[RequestRow]) -> None:
    values = [dict(zip(_COLUMNS, _values_of(row), strict=True)) for row in rows]
    baselines = {row.row_id: row.baselines for row in rows}
    insert = insert_into(connection, REQUESTS).on_conflict_do_nothing(index_elements=["row_id"])
    new = connection.execute(insert.returning(REQUESTS.c.row, REQUESTS.c.row_id), values)
    costs = [
        {"row": key, "baseline": name, "cost_nano_usd": cost}
        for key, row_id in new
        for name, cost in baselines[row_id].items()
    ]
    if costs:
        connection.execute(BASELINE_COSTS.insert(), costs)


def upsert_lives(database: Database, lives: Sequence[WorkerLife]) -> None:
    """Keep each worker's last word on itself: of the greatest uptime, whoever heard it."""
    # In one order everywhere, so that gateways that write the same lives never block each other.
    values = [asdict(life) for life in sorted(lives, key=lambda life: life.incarnation)]
    with database.begin() as connection:
        insert = insert_into(connection, WORKER_LIVES)
        upsert = insert.on_conflict_do_update(
            index_elements=["incarnation"],
            set_={name: insert.excluded[name] for name in WorkerLife.__dataclass_fields__},
            where=insert.excluded.uptime_us >= WORKER_LIVES.c.uptime_us,
        )
        connection.execute(upsert, values)
