"""A worker of the embedded engine that notes when nothing of a request computes any more.

python -m benchmarks.noting_worker FLEET.yaml --listen ADDRESS --notes FILE. Each line is of
a request: begun, left (its caller has gone) or dropped; its id; and time.monotonic(), one clock for
all processes of a machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TextIO

from model_pool.catalog import read_catalog
from model_pool.engine import Job, Piece, Usage
from model_pool.settings import GATEWAY_SECTIONS, PoolSettings
from model_pool.settings_file import load
from model_pool.transformers_engine import TransformersEngine
from model_pool.worker import WorkerIdentity, WorkerServicer
from model_pool.worker_door import WorkerDoor


class NotingEngine(TransformersEngine):
    """notes: set before it is asked anything."""

    notes: TextIO

    async def generate(
        self, job: Job, on_end: Callable[[Usage], None] | None = None
    ) -> AsyncGenerator[Piece, None]:
        """See Engine."""

        def ended(usage: Usage) -> None:
            self._note("dropped", job)
            if on_end is not None:
                on_end(usage)

        self._note("begun", job)
        async with contextlib.aclosing(super().generate(job, ended)) as pieces:
            try:
                async for piece in pieces:
                    yield piece
            except BaseException:
                self._note("left", job)
                raise

    def _note(self, what: str, job: Job) -> None:
        self.notes.write(f"{what} {job.request_id} {time.monotonic()}\n")


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noting_worker")
    parser.add_argument("fleet", type=Path)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--notes", type=Path, required=True)
    chosen = parser.parse_args()
    with chosen.notes.open("w", buffering=1) as notes:
        asyncio.run(_serve(chosen.fleet, chosen.listen, notes))


async def _serve(fleet: Path, listen: str, notes: TextIO) -> None:
    settings = load(PoolSettings, fleet, ignored=GATEWAY_SECTIONS)
    pool = settings.pool
    engine = NotingEngine(
        settings.base.path,
        max_running_count=pool.max_running_count,
        max_queued_count=pool.max_queued_count,
        thread_count=pool.thread_count,
    )
    engine.notes = notes
    identity = WorkerIdentity(
        name="worker-0",
        engine=pool.engine,
        price_nano_usd_per_hour=pool.hardware.nano_usd_per_hour,
        limit_count=pool.max_running_count + pool.max_queued_count,
        memory_budget_bytes=pool.memory_budget_mib * 2**20,
    )
    servicer = WorkerServicer(identity, engine, monotonic=time.monotonic, wall=time.time)
    door = WorkerDoor(servicer, listen)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await door.open()
    await servicer.start(read_catalog(settings), ())
    await door.serve()
    await stopping.wait()
    await door.close()
    await engine.stop()


if __name__ == "__main__":
    main()
