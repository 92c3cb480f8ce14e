"""How long each worker was up, busy and idle, kept in the ledger: idle costs money too."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from deltafleet.v1 import worker_pb2
from gateway.errors import LedgerUnavailable
from gateway.ledger_store import LedgerStore, WorkerLife
from model_pool.pool import Pool

INTERVAL_S = 1.0
log = logging.getLogger("gateway.ledger")


class LifeRecorder:
    """Writes each worker's last word on itself once a second, and at the end."""

    def __init__(self, pool: Pool, store: LedgerStore) -> None:
        self._pool = pool
        self._store = store
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to record."""
        self._task = asyncio.create_task(self._run(), name="record lives")

    async def stop(self) -> None:
        """Record once more, then stop."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._record()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self._record()

    async def _record(self) -> None:
        heard = [member.last_word for member in self._pool.members.values()]
        try:
            await self._store.record_lives([life_of(status) for status in heard if status])
        except (LedgerUnavailable, SQLAlchemyError):
            log.exception("lives_not_recorded")  # the next word says it again


def life_of(status: worker_pb2.WatchStatusResponse) -> WorkerLife:
    """A worker's last word on itself, as the ledger keeps it."""
    return WorkerLife(
        incarnation=status.incarnation,
        worker=status.worker,
        started_at_us=status.start_time.ToMicroseconds(),
        uptime_us=_us(status.uptime_s),
        busy_us=_us(status.busy_s),
        load_us=_us(status.load_s),
        switch_us=_us(status.switch_s),
        price_nano_usd_per_hour=status.price_nano_usd_per_hour,
    )


def _us(seconds: float) -> int:
    """Whole microseconds, which is what a worker tells."""
    return round(seconds * 1e6)
