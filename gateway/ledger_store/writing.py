"""Rows into the ledger. Every write is safe to do twice: what is there is not written again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter

import sqlalchemy as sa

from gateway.ledger_store.database import Database, insert_into
from gateway.ledger_store.rows import RequestRow, WorkerLife
from gateway.ledger_store.tables import BASELINE_COSTS, REQUESTS, WORKER_LIVES

_COLUMNS = tuple(name for name in RequestRow.__dataclass_fields__ if name != "baselines")
_values_of = attrgetter(*_COLUMNS)
# SQLite numbers rows upwards: within a transaction, which nobody else's writes are in, those above
# the last one before it are new.
_LAST_ROW = "SELECT coalesce(max(row), 0) FROM requests"
_INSERT_ROW = (
    f"INSERT INTO requests ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    " ON CONFLICT (row_id) DO NOTHING"
)
_INSERT_COST = (
    "INSERT INTO baseline_costs (row, baseline, cost_nano_usd)"
    " SELECT row, ?, ? FROM requests WHERE row_id = ? AND row > ?"
)


def insert_rows(database: Database, rows: Sequence[RequestRow]) -> None:
    """All of them or none, in one transaction; a row whose row_id is there stays as it is."""
    with database.begin() as connection:
        if database.is_sqlite:
            _insert_into_sqlite(connection, rows)
        else:
            _insert_into_postgres(connection, rows)


def _insert_into_sqlite(connection: sa.Connection, rows: Sequence[RequestRow]) -> None:
    """By the driver's own words, which take a fifth of the time of building the same statements:
    this is done for every request.
    """
    last_row = connection.exec_driver_sql(_LAST_ROW).scalar_one()
    connection.exec_driver_sql(_INSERT_ROW, [_values_of(row) for row in rows])
    baselines = {row.row_id: row.baselines for row in rows}
    costs = [
        (name, cost, row_id, last_row)
        for row_id, named in baselines.items()
        for name, cost in named.items()
    ]
    if costs:
        connection.exec_driver_sql(_INSERT_COST, costs)


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
