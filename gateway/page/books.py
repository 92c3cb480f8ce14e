"""The ledger, read for the page no oftener than it can bear."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import LedgerUnavailable
from gateway.ledger_store import LedgerStore, Sums
from gateway.page.money import Books

SHORTEST_REST_S = 2.0
# Reading takes at most this share of the time, however large the ledger is.
LARGEST_READING_SHARE = 0.05
WHOLE_AGAIN_S = 3600.0
WAIT_S = 1.0
log = logging.getLogger("gateway.page")


class LedgerBooks:
    """The ledger's sums by day and model, and the workers' lives.

    The whole ledger is read once an hour; in between only yesterday and today, whose sums still
    change. read_at: when it was last read; failure: why it could not be; None where there is none.
    now: the time, with its zone. clock: seconds, monotonic. wait_s: how long one who looks waits
    for a reading; None: to its end.
    """

    def __init__(
        self,
        store: LedgerStore,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        *,
        wait_s: float | None = WAIT_S,
    ) -> None:
        self._wait_s = wait_s
        self._store = store
        self._now = now
        self._clock = clock
        self._books: Books | None = None
        self._task: asyncio.Task[None] | None = None
        self._next_s = self._whole_s = float("-inf")
        self.read_at: datetime | None = None
        self.failure: str | None = None

    async def latest(self) -> Books | None:
        """What is known, read anew where it is time; None where it was never read.

        Where a reading takes longer than one waits for it, this is what was known before.
        """
        if (self._task is None or self._task.done()) and self._clock() >= self._next_s:
            self._task = asyncio.create_task(self._read(), name="read ledger for the page")
        if self._task and not self._task.done():
            await asyncio.wait([self._task], timeout=self._wait_s)
        return self._books

    async def _read(self) -> None:
        begun_s = self._clock()
        try:
            await self._refresh(begun_s)
            self.read_at, self.failure = self._now(), None
        except (LedgerUnavailable, SQLAlchemyError, OSError) as error:
            log.warning("page_ledger_not_read", extra={"error": type(error).__name__})
            self.failure = "the ledger cannot be read"
        took_s = self._clock() - begun_s
        self._next_s = self._clock() + max(SHORTEST_REST_S, took_s / LARGEST_READING_SHARE)

    async def _refresh(self, begun_s: float) -> None:
        midnight = self._now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        start = midnight - timedelta(days=1)
        is_whole = self._books is None or begun_s - self._whole_s >= WHOLE_AGAIN_S
        fresh = await self._store.sums(None if is_whole else start, None, ("day", "model"))
        if is_whole:
            self._whole_s = begun_s
        kept = [] if is_whole else _before(self._books, start.date().isoformat())
        self._books = Books([*kept, *fresh], await self._store.lives())


def _before(books: Books | None, day: str) -> Sequence[Sums]:
    return [one for one in books.sums if one.key["day"] < day] if books else []
