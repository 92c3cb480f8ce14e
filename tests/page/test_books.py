"""The ledger as the page reads it: the same as the ledger, and seldom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from gateway.ledger_store import LedgerStore
from gateway.ledger_store.summing import to_us
from gateway.page.books import SHORTEST_REST_S, WHOLE_AGAIN_S, LedgerBooks
from support.ledger_rows import row

NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def date(self) -> datetime:
        return NOON + timedelta(seconds=self.now_s)


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[LedgerStore, LedgerBooks, Clock]]:
    store, clock = LedgerStore(directory / "ledger.sqlite3"), Clock()
    await store.open()
    try:
        yield store, LedgerBooks(store, clock.date, clock, wait_s=None), clock
    finally:
        await store.close()


async def read(books: LedgerBooks) -> list[object]:
    found = await books.latest()
    assert found is not None
    return sorted(found.sums, key=lambda one: (one.key["day"], one.key["model"]))


async def test_what_is_read_piecemeal_is_what_the_ledger_has(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, books, clock):
        for number in range(40):
            ago = timedelta(hours=7 * (number % 13))
            await store.append(
                row(number, finished_at_us=to_us(clock.date() - ago), model=f"m-{number % 3}")
            )
            if number % 4 == 0:
                assert await read(books) == await store.sums(None, None, ("day", "model"))
            clock.now_s += SHORTEST_REST_S + 3600 * (number % 2)


async def test_a_row_of_an_old_day_is_seen_within_the_hour(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, books, clock):
        await store.append(row(1, finished_at_us=to_us(NOON)))
        await read(books)
        await store.append(row(2, finished_at_us=to_us(NOON - timedelta(days=9))))
        clock.now_s += SHORTEST_REST_S
        assert len(await read(books)) == 1
        clock.now_s += WHOLE_AGAIN_S
        assert len(await read(books)) == 2


async def test_many_who_look_read_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, books, clock):
        reads = 0

        def count(*_: object) -> None:
            nonlocal reads
            reads += 1

        sa.event.listen(sa.engine.Engine, "begin", count)
        try:
            await asyncio.gather(*(books.latest() for _ in range(50)))
            first = reads
            await books.latest()
            assert reads == first > 0
            clock.now_s += SHORTEST_REST_S
            await books.latest()
            assert reads > first
        finally:
            sa.event.remove(sa.engine.Engine, "begin", count)


async def test_a_ledger_that_is_away_leaves_what_was_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, books, clock):
        await store.append(row(1, finished_at_us=to_us(NOON)))
        known = await read(books)
        with sa.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite3'}").begin() as connection:
            connection.execute(sa.text("alter table requests rename to elsewhere"))
        clock.now_s += SHORTEST_REST_S
        assert await read(books) == known
        assert books.failure == "the ledger cannot be read"
        assert books.read_at == NOON
