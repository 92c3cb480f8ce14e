"""A stream's values; those that are ready together in one list."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

LARGEST_COUNT = 256  # values that wait for a slow reader; then their maker waits
Value = TypeVar("Value")


@contextlib.asynccontextmanager
async def batched(
    values: AsyncGenerator[Value, None],
) -> AsyncIterator[AsyncGenerator[list[Value], None]]:
    """Read values in a task of its own, which ends, and closes them, before this does.

    A value never waits for another one: what came while the last list was in use is the next.
    """
    waiting: list[Value] = []
    ready, room = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        try:
            async with contextlib.aclosing(values):
                async for value in values:
                    waiting.append(value)
                    ready.set()
                    if len(waiting) >= LARGEST_COUNT:
                        room.clear()
                        await room.wait()
        finally:
            ready.set()

    reading = asyncio.create_task(read(), name="read an answer")
    try:
        yield _lists(waiting, ready, room, reading)
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()  # whoever left early did not ask for it


async def _lists(
    waiting: list[Value], ready: asyncio.Event, room: asyncio.Event, reading: asyncio.Task[None]
) -> AsyncGenerator[list[Value], None]:
    while True:
        await ready.wait()
        ready.clear()
        if waiting:
            batch = waiting[:]
            waiting.clear()
            room.set()
            yield batch
        elif reading.done():
            reading.result()  # what it raised
            return
        if reading.done():
            ready.set()
