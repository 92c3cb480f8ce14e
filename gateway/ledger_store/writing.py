"""Rows into the ledger. Every write is safe to do twice: what is there is not written again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from gateway.ledger_store.database import Database, insert_into
from gateway.ledger_store.rows import RequestRow, WorkerLife
from gateway.ledger_store.tables import BASELINE_COSTS, REQUESTS, WORKER_LIVES

_COLUMNS = tuple(name for name in RequestRow.__dataclass_fields__ if name != "baselines")


def insert_rows(database: Database, rows: Sequence[RequestRow]) -> None:
    """All of them or none, in one transaction; a row whose row_id is there stays as it is."""
    values, baselines = [], {}
    for row in rows:
        values.append({name: getattr(row, name) for name in _COLUMNS})
        baselines[row.row_id] = row.baselines
    with database.begin() as connection:
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
