"""The ledger as the gateway uses it: durable when `append` returns, and never in the way of reads.

One thread writes; rows that arrive while it commits go into the next transaction together, so that
the disk is synced once for many. Where many come, it waits a moment for more. Reads have threads
and connections of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import LedgerUnavailable
from gateway.ledger_store.database import Database, retried
from gateway.ledger_store.folding import first_kept_us, fold_some
from gateway.ledger_store.migrating import migrate
from gateway.ledger_store.rows import RequestRow, Sums, WorkerLife
from gateway.ledger_store.summing import read_spent, read_sums
from gateway.ledger_store.tables import WORKER_LIVES
from gateway.ledger_store.writing import insert_rows, upsert_lives

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")
log = logging.getLogger("gateway.ledger")
FOLD_INTERVAL_S = 3600.0
# A commit costs as much for many rows as for one; who is alone does not wait for others. As
# PostgreSQL's commit_delay and commit_siblings (its manual, 19.5.1).
COMMIT_PAUSE_S = 0.004
SIBLING_COUNT = 2


class _Waiting:
    """A row, since when it waits (seconds, monotonic), and who is told that it is durable."""

    def __init__(self, row: RequestRow) -> None:
        self.row = row
        self.since_s = time.monotonic()
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def succeed(self) -> None:
        if not self.written.done():  # its caller may have gone
            self.written.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.written.done():
            self.written.set_exception(error)
            self.written.exception()  # retrieved: it may be cancelled before it hears


class LedgerStore:
    """The ledger's database. `open` it first, `close` it last.

    place: SQLite's file, or the URL of either kind. retry_s: how long a row is tried again where
    the database is away. keep_days: older requests are folded into daily sums; None: never.
    """

    def __init__(
        self, place: Path | sa.URL, *, retry_s: float = 10.0, keep_days: int | None = None
    ) -> None:
        url = sa.URL.create("sqlite", database=str(place)) if isinstance(place, Path) else place
        self.database = Database(url)
        self._retry_s = retry_s
        self._keep_days = keep_days
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="ledger-read")
        self._folder = ThreadPoolExecutor(1, thread_name_prefix="ledger-fold")
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._folding: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Create what is missing, and bring older tables to today's shape.

        Raises BadLedger, LedgerUnavailable, OSError or sqlalchemy.exc.SQLAlchemyError.
        """
        await _in(self._writer, self._open)
        if self._keep_days is not None:
            self._folding = asyncio.create_task(self._fold_often(), name="fold ledger")

    async def close(self) -> None:
        """Write what waits, then close."""
        if self._folding:
            self._folding.cancel()
            await asyncio.gather(self._folding, return_exceptions=True)
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)
        for threads in (self._folder, self._readers, self._writer):
            await asyncio.to_thread(threads.shutdown)
        await asyncio.to_thread(self.database.dispose)

    async def append(self, row: RequestRow) -> None:
        """Write one row; durable when this returns. Cancelling the caller does not undo it.

        Raises LedgerUnavailable where the database stays away: then nobody knows whether the row is
        there, and appending the same row again is safe.
        """
        one = _Waiting(row)
        self._waiting.append(one)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all(), name="write ledger")
        await one.written

    async def record_life(self, life: WorkerLife) -> None:
        """Keep a worker's last word on itself. Raises LedgerUnavailable."""
        await self.record_lives([life])

    async def record_lives(self, lives: Sequence[WorkerLife]) -> None:
        """Keep workers' last words on themselves, in one transaction. Raises LedgerUnavailable."""
        if lives:
            await _in(self._writer, self._once, partial(upsert_lives, self.database, lives))

    async def sums(
        self, start: datetime | None, end: datetime | None, by: Sequence[str] = ("model",)
    ) -> list[Sums]:
        """Sums over the requests that finished in [start, end), by any of `rows.DIMENSIONS`.

        In the keys' order. A folded day is of the time that its first moment is in, wholly.
        """
        return await self._read(partial(read_sums, self.database, start, end, by))

    async def spent_nano_usd(self, caller: str, start: datetime) -> int:
        """Of a caller's requests that finished since then. start: a day's first moment."""
        return await self._read(partial(read_spent, self.database, caller, start))

    async def lives(self) -> list[WorkerLife]:
        """Every worker's lives, the latest first."""
        return await self._read(self._lives)

    async def fold(self, before_us: int) -> int:
        """Fold every request that finished before then into its day's sums; how many.

        before_us: the beginning of a day, UTC. Raises LedgerUnavailable.
        """
        total = 0
        while count := await _in(
            self._folder, self._once, partial(fold_some, self.database, before_us)
        ):
            total += count
        return total

    async def _fold_often(self) -> None:
        assert self._keep_days is not None
        while True:
            try:
                count = await self.fold(first_kept_us(datetime.now(UTC), self._keep_days))
                if count:
                    log.info("ledger_folded", extra={"row_count": count})
            except (LedgerUnavailable, SQLAlchemyError):
                log.exception("ledger_fold_failed")
            await asyncio.sleep(FOLD_INTERVAL_S)

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await _in(self._writer, self._insert, batch)
            except Exception as error:
                await self._write_apart(batch, error)
            else:
                for one in batch:
                    one.succeed()
            if len(batch) + len(self._waiting) > SIBLING_COUNT:
                await asyncio.sleep(COMMIT_PAUSE_S)

    async def _write_apart(self, batch: list[_Waiting], error: Exception) -> None:
        if len(batch) == 1 or isinstance(error, LedgerUnavailable):
            for one in batch:
                one.fail(error)
            return
        for one in batch:  # so that a row that the database refuses takes no other with it
            try:
                await _in(self._writer, self._insert, [one])
            except Exception as error:
                one.fail(error)
            else:
                one.succeed()

    def _open(self) -> None:
        if self.database.file:
            self.database.file.parent.mkdir(parents=True, exist_ok=True)
        until_s = time.monotonic() + self._retry_s
        retried(partial(migrate, self.database), until_s)
        retried(self.database.check_durable, until_s)

    def _insert(self, batch: Sequence[_Waiting]) -> None:
        rows = [one.row for one in batch]
        retried(partial(insert_rows, self.database, rows), batch[0].since_s + self._retry_s)

    def _once(self, work: Callable[[], Result]) -> Result:
        return retried(work, time.monotonic())

    async def _read(self, work: Callable[[], Result]) -> Result:
        return await _in(self._readers, retried, work, time.monotonic() + self._retry_s)

    def _lives(self) -> list[WorkerLife]:
        statement = sa.select(
            *(WORKER_LIVES.c[name] for name in WorkerLife.__dataclass_fields__)
        ).order_by(WORKER_LIVES.c.started_at_us.desc())
        with self.database.begin_read() as connection:
            return [WorkerLife(*row) for row in connection.execute(statement)]


async def _in(
    threads: ThreadPoolExecutor, work: Callable[[*Arguments], Result], *arguments: *Arguments
) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)
