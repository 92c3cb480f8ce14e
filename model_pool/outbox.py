"""What waits to be written to a stream: the writer takes all that gathered while it wrote."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """Of one event loop, and for one writer.

    take_count: how often it was emptied.
    """

    def __init__(self) -> None:
        self.take_count = 0
        self._items: list[Item] = []
        self._filled = asyncio.Event()
        self._emptied: asyncio.Event | None = None
        self._is_closed = False

    def put(self, item: Item) -> None:
        """One more, behind the others."""
        self._items.append(item)
        self._filled.set()

    def close(self) -> None:
        """Nothing comes any more."""
        self._is_closed = True
        self._filled.set()

    async def take(self) -> list[Item]:
        """All that there is, as soon as there is any; none once it is closed and empty."""
        while not self._items and not self._is_closed:
            self._filled.clear()
            await self._filled.wait()
        items, self._items = self._items, []
        self.take_count += 1
        emptied, self._emptied = self._emptied, None
        if emptied is not None:
            emptied.set()
        return items

    async def until_taken(self) -> None:
        """Return when the writer has taken what is there now."""
        if self._emptied is None:
            self._emptied = asyncio.Event()
        await self._emptied.wait()
