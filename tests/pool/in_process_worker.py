"""A worker in this process, at an address of its own: the demo fleet's base on the real engine."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

from model_pool.catalog import read_catalog
from model_pool.settings import GATEWAY_SECTIONS, PoolSettings, PoolTls
from model_pool.settings_file import load
from model_pool.transformers_engine import TransformersEngine
from model_pool.worker import WorkerIdentity, WorkerServicer
from model_pool.worker_door import WorkerDoor
from support.fleet import DEMO


class InProcessWorker:
    """address: host:port."""

    def __init__(self, name: str, address: str, tls: PoolTls | None = None) -> None:
        self.name = name
        self.address = address
        self.engine = TransformersEngine(Path(DEMO).parent / "base", thread_count=1)
        identity = WorkerIdentity(name, "transformers", 3_600_000_000, 8, 64 * 2**20)
        self.servicer = WorkerServicer(
            identity, self.engine, monotonic=time.monotonic, wall=time.time
        )
        self.door = WorkerDoor(self.servicer, address, tls)

    async def start(self) -> None:
        """Take requests."""
        await self.door.open()
        settings = load(PoolSettings, DEMO, ignored=GATEWAY_SECTIONS, environment={})
        await self.servicer.start(read_catalog(settings), ())
        await self.door.serve()

    async def stop(self) -> None:
        """Drain, then go."""
        await self.door.drain(10)
        await self.door.close()
        await self.engine.stop()


@contextlib.asynccontextmanager
async def running_worker(
    name: str, address: str, tls: PoolTls | None = None
) -> AsyncIterator[InProcessWorker]:
    """One that serves; stopped at the end, if it was not before."""
    worker = InProcessWorker(name, address, tls)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


def free_port() -> int:
    """One that is free on every loopback address just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port
