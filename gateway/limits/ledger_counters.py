"""Counters that learn from the ledger what was spent before they began to count."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from gateway.limits.counters import (
    Ask,
    Counters,
    Draw,
    Drawn,
    Grant,
    Rest,
    Spent,
    Unseeded,
    Verdict,
)

ReadSpent = Callable[[str], Awaitable[Spent]]
Result = TypeVar("Result")


class SeededCounters:
    """What is begun comes to its end, also where the one who waits is cancelled meanwhile.

    read_spent: what a caller has spent, by the ledger. Raises LedgerUnavailable where that must be
    read, and is away.
    """

    def __init__(self, counters: Counters, read_spent: ReadSpent) -> None:
        self._counters = counters
        self._read_spent = read_spent

    async def admit(self, ask: Ask, abandon: Callable[[Verdict], Awaitable[None]]) -> Verdict:
        """See Counters. abandon: is given what was let in where the one who waits has gone."""
        if not self._counters.is_shared:  # nothing is taken before it returns: see MemoryCounters
            return await self._admit(ask)
        task = asyncio.create_task(self._admit(ask), name="admit")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if task.exception() is None and not task.result().refused:
                await abandon(task.result())
            raise

    async def draw(self, draw: Draw, keep: Callable[[Grant], None]) -> Drawn:
        """See Counters. keep: is given the grant, also where the one who waits has gone."""
        return await self._to_the_end(self._draw(draw, keep))

    async def settle(self, rest: Rest) -> None:
        """See Counters."""
        await self._to_the_end(self._counters.settle(rest))

    async def _admit(self, ask: Ask) -> Verdict:
        try:
            return await self._counters.admit(ask)
        except Unseeded:
            await self._seed(ask.caller)
        return await self._counters.admit(ask)

    async def _draw(self, draw: Draw, keep: Callable[[Grant], None]) -> Drawn:
        try:
            drawn = await self._counters.draw(draw)
        except Unseeded:
            await self._seed(draw.caller)
            drawn = await self._counters.draw(draw)
        keep(drawn.grant)
        return drawn

    async def _seed(self, caller: str) -> None:
        await self._counters.seed(caller, await self._read_spent(caller))

    async def _to_the_end(self, work: Coroutine[Any, Any, Result]) -> Result:
        if not self._counters.is_shared:
            return await work
        task = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            task.exception()  # retrieved: nobody else hears of it
            raise
