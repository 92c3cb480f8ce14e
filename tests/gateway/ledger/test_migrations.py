"""Ledgers of other versions: older ones are brought along, newer ones refused."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from gateway.ledger_store import BadLedger, LedgerStore, WorkerLife, migrating
from gateway.ledger_store.database import Database
from gateway.ledger_store.migrating import check_current, migrate
from gateway.ledger_store.tables import METADATA
from support.ledger_rows import row

Ask = Callable[[str], list[tuple[object, ...]]]
# As files were before there were revisions.
OLD_TABLES = """
CREATE TABLE requests (
    "row" INTEGER NOT NULL PRIMARY KEY, request_id TEXT NOT NULL, finished_at_us BIGINT NOT NULL,
    model TEXT NOT NULL, task TEXT NOT NULL, reason TEXT NOT NULL, outcome TEXT NOT NULL,
    worker TEXT NOT NULL, weights_digest TEXT NOT NULL, prompt_token_count BIGINT NOT NULL,
    output_token_count BIGINT NOT NULL, busy_us BIGINT NOT NULL, first_token_us BIGINT,
    total_us BIGINT NOT NULL, cost_nano_usd BIGINT NOT NULL);
CREATE INDEX ix_requests_request_id ON requests (request_id);
CREATE INDEX ix_requests_finished_at_us ON requests (finished_at_us);
CREATE TABLE baseline_costs (
    "row" INTEGER NOT NULL, baseline TEXT NOT NULL, cost_nano_usd BIGINT NOT NULL,
    PRIMARY KEY ("row", baseline), FOREIGN KEY("row") REFERENCES requests ("row"));
CREATE TABLE worker_lives (
    incarnation TEXT NOT NULL PRIMARY KEY, worker TEXT NOT NULL, started_at_us BIGINT NOT NULL,
    uptime_s FLOAT NOT NULL, busy_s FLOAT NOT NULL, load_s FLOAT NOT NULL,
    price_nano_usd_per_hour BIGINT NOT NULL);
INSERT INTO requests VALUES (1,'a',5,'sql','sql','task','answered','w','d',1,2,3,NULL,4,70);
INSERT INTO requests VALUES (2,'b',6,'sql','sql','task','refused','','',0,0,0,NULL,4,1);
INSERT INTO baseline_costs VALUES (1,'dear',900);
INSERT INTO worker_lives VALUES ('i','w',1,2.0,1.0,0.5,10);
"""


def old_file(directory: Path) -> Path:
    path = directory / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD_TABLES)
    return path


def dump(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


async def test_the_revisions_make_the_tables_that_the_program_uses(place: sa.URL) -> None:
    database = Database(place)
    migrate(database)
    with database.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    database.dispose()


async def test_a_file_from_before_the_revisions_is_adopted(tmp_path: Path) -> None:
    path = old_file(tmp_path)
    store = LedgerStore(path)
    await store.open()
    await store.append(row(3))
    (sums,) = await store.sums(None, None, by=("caller",))
    assert (sums.request_count, sums.answered_count, sums.cost_nano_usd) == (3, 2, 84)
    assert sums.baselines == {"cheap": 10, "dear": 1_900}
    assert await store.lives() == [WorkerLife("i", "w", 1, 2_000_000, 1_000_000, 500_000, 0, 10)]
    await store.close()

    with closing(sqlite3.connect(path)) as connection:
        ids = [one for (one,) in connection.execute("SELECT row_id FROM requests")]
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [("0004",)]
    assert len(set(ids)) == 3 and "" not in ids


async def test_lives_in_seconds_become_whole_microseconds(place: sa.URL) -> None:
    database = Database(place)
    config = Config()
    config.set_main_option("script_location", str(Path(migrating.__file__).parent / "migrations"))
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.exec_driver_sql(
            "INSERT INTO worker_lives VALUES ('exact','w',3,2.5,1.0000004,0.25,10), "
            # It loaded beside computing, which counted twice.
            "('twice','w',2,10.0,8.0,7.5,10), ('more','w',1,1.0,1.0000009,0.5,10)"
        )
    migrate(database)
    database.dispose()

    store = LedgerStore(place)
    await store.open()
    assert await store.lives() == [
        WorkerLife("exact", "w", 3, 2_500_000, 1_000_000, 250_000, 0, 10),
        WorkerLife("twice", "w", 2, 10_000_000, 8_000_000, 2_000_000, 0, 10),
        WorkerLife("more", "w", 1, 1_000_000, 1_000_000, 0, 0, 10),
    ]
    await store.close()


def test_a_migration_that_breaks_off_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = old_file(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE daily_sums (in_the_way TEXT)")
    before = dump(path)
    database = Database(sa.URL.create("sqlite", database=str(path)))
    with pytest.raises(sa.exc.OperationalError, match="daily_sums"):
        migrate(database)
    database.dispose()

    assert dump(path) == before


async def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(
    place: sa.URL, ask: Ask
) -> None:
    store = LedgerStore(place)
    await store.open()
    await store.close()
    ask("UPDATE alembic_version SET version_num = '9999'")

    store = LedgerStore(place)
    with pytest.raises(BadLedger, match=r"newer version of deltafleet \(9999\)"):
        await store.open()
    await store.close()
    assert ask("SELECT version_num FROM alembic_version") == [("9999",)]


async def test_an_older_ledger_is_not_changed_by_who_only_looks(tmp_path: Path) -> None:
    path = old_file(tmp_path)
    before = dump(path)
    database = Database(sa.URL.create("sqlite", database=str(path)))
    with pytest.raises(BadLedger, match="revision none, not 0004"):
        check_current(database)
    database.dispose()
    assert dump(path) == before


async def test_gateways_that_start_together_do_not_collide(place: sa.URL, ask: Ask) -> None:
    stores = [LedgerStore(place) for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.append(row(n)) for n, store in enumerate(stores)))
    await asyncio.gather(*(store.close() for store in stores))

    assert ask("SELECT version_num FROM alembic_version") == [("0004",)]
    assert len(ask("SELECT * FROM requests")) == 6
