"""A database that goes away: rows are tried again, and never acknowledged without being there."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from benchmarks.postgres_server import PostgresServer
from deltafleet.v1.error_reason_pb2 import ErrorReason
from gateway.errors import LedgerUnavailable
from gateway.ledger_store import LedgerStore, WorkerLife
from gateway.ledger_store.database import Database, retried
from support.ledger_rows import row


@pytest.fixture(scope="module")
def frail() -> Iterator[PostgresServer]:
    """A server that may be killed."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def test_rows_wait_for_a_server_that_comes_back(frail: PostgresServer) -> None:
    store = LedgerStore(frail.create("back"), retry_s=60)
    await store.open()
    await store.append(row(1))
    frail.kill()
    waiting = asyncio.gather(*(store.append(row(number)) for number in range(1, 5)))
    await asyncio.to_thread(frail.start)
    await waiting
    (sums,) = await store.sums(None, None)
    await store.close()

    assert sums.request_count == 4


async def test_rows_are_refused_when_the_server_stays_away(frail: PostgresServer) -> None:
    store = LedgerStore(frail.create("away"), retry_s=0.3)
    await store.open()
    await store.append(row(1))
    frail.stop()
    try:
        told = await asyncio.gather(
            *(store.append(row(number)) for number in (2, 3)), return_exceptions=True
        )
        with pytest.raises(LedgerUnavailable):
            await store.record_life(WorkerLife("i", "w", 1, 1000, 0, 0, 0, 1))
        with pytest.raises(LedgerUnavailable):
            await store.sums(None, None)
    finally:
        frail.start()

    for failure in told:
        assert isinstance(failure, LedgerUnavailable)
        assert failure.reason == ErrorReason.ERROR_REASON_LEDGER_UNAVAILABLE
        assert failure.retry_after_s
        assert frail.password not in str(failure) + str(failure.__cause__)
    await store.append(row(2))  # as its caller's retry would, and nothing has to be opened anew
    (sums,) = await store.sums(None, None)
    await store.close()
    assert sums.request_count == 2


async def test_a_commit_whose_answer_was_lost_is_not_written_twice(place: sa.URL) -> None:
    """The connection breaks after the commit and before the answer to it."""
    store = LedgerStore(place, retry_s=20)
    await store.open()
    is_first = True

    def lose_the_answer(connection: sa.Connection) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.commit()
            raise sa.exc.OperationalError("COMMIT", None, Exception("the answer was lost"))

    with store.database.begin() as connection:
        sa.event.listen(connection.engine, "commit", lose_the_answer)
        is_first = False
    is_first = True
    await asyncio.gather(store.append(row(1)), store.append(row(2)))
    assert not is_first
    (sums,) = await store.sums(None, None)
    await store.close()

    assert (sums.request_count, sums.cost_nano_usd) == (2, 26)


async def test_a_file_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    store = LedgerStore(path)
    await store.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        waiting = asyncio.create_task(store.append(row(1)))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        other.execute("ROLLBACK")
        await waiting
    await store.close()


async def test_a_cancelled_callers_row_is_written_all_the_same(place: sa.URL) -> None:
    store = LedgerStore(place)
    await store.open()
    waiting = asyncio.create_task(store.append(row(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await store.close()

    store = LedgerStore(place)
    await store.open()
    assert [sums.request_count for sums in await store.sums(None, None)] == [1]
    await store.close()


def test_what_waiting_does_not_help_is_not_tried_again() -> None:
    count = 0

    def work() -> None:
        nonlocal count
        count += 1
        raise DBAPIError("INSERT", None, Exception("refused"))

    with pytest.raises(DBAPIError):
        retried(work, until_s=float("inf"))
    assert count == 1


def test_a_server_that_may_lose_commits_is_refused(frail: PostgresServer) -> None:
    from gateway.ledger_store import BadLedger

    engine = sa.create_engine(frail.url(), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER SYSTEM SET synchronous_commit = off")
        connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    database = Database(frail.url())
    until_off = sa.text("SELECT pg_sleep(0.01), current_setting('fsync')")
    with engine.connect() as connection:
        while connection.execute(until_off).one()[1] != "off":
            pass
    try:
        with pytest.raises(BadLedger, match="fsync is off"):
            database.check_durable()
        with database.begin() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql("ALTER SYSTEM RESET ALL")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        database.dispose()
        engine.dispose()
