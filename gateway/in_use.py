"""Who still uses what is to be closed after its last use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

Event = TypeVar("Event")


class InUse:
    """Counts the users: `with` it while something is used."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = asyncio.Event()

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        self._changed.set()

    async def during(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The same events, in use from the first step to the end."""
        with self:
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event

    async def until_unused(self) -> None:
        """Return when nobody uses it."""
        while self._count:
            self._changed.clear()
            await self._changed.wait()
