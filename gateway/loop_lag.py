"""How late the event loop is: what a call waits before anybody looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Histogram

INTERVAL_S = 0.1


@asynccontextmanager
async def loop_lag_measured(histogram: Histogram) -> AsyncIterator[None]:
    """Ten times a second, while the block runs: how long after its time a timer was called."""

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            histogram.observe(max(0.0, loop.time() - due_s))

    ticking = asyncio.create_task(tick(), name="loop lag")
    try:
        yield
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
