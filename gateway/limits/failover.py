"""Counts that all gateways share, and what holds while those are away.

Money is not spent then: nobody knows what others spend. Requests, tokens and streams are counted
by each gateway alone. One failure is enough to believe it; then a task of its own asks again and
again, so that no request waits for a store that is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.errors import LimitsUnavailable
from gateway.limits.counters import Ask, CountersAway, Draw, Drawn, Rest, Spent, Verdict
from gateway.limits.link import RedisLink
from gateway.limits.memory import MemoryCounters
from gateway.limits.redis import RedisCounters

# The first look again comes at once: a timeout may have been our own fault.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
log = logging.getLogger("gateway.limits")


class FailoverCounters:
    """See Counters. `start` it first, `stop` it last. Raises LimitsUnavailable for CountersAway.

    on_change: told whether the shared counts are there.
    """

    def __init__(
        self,
        shared: RedisCounters,
        alone: MemoryCounters,
        *,
        renewal_s: float,
        on_change: Callable[[bool], None],
    ) -> None:
        self._shared = shared
        self._alone = alone
        self._renewal_s = renewal_s
        self._on_change = on_change
        self._is_up = True
        self._owed: list[Rest] = []
        self._renewing: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None
        self._others: list[Callable[[], Awaitable[None]]] = []

    @property
    def link(self) -> RedisLink:
        """For what else all gateways share."""
        return self._shared.link

    @property
    def is_up(self) -> bool:
        """Whether the shared store answers, as far as is known."""
        return self._is_up

    def also_renew(self, renew: Callable[[], Awaitable[None]]) -> None:
        """Call it as often as places are renewed, and before a return. It raises CountersAway."""
        self._others.append(renew)

    @property
    def is_shared(self) -> bool:
        """See Counters."""
        return True

    async def start(self) -> None:
        """Look whether the shared counts are there; if not, go on without them."""
        self._on_change(True)
        try:
            await self._shared.ping()
        except CountersAway as error:
            self.fall(error)
        self._renewing = asyncio.create_task(self._renew_often(), name="renew places")

    async def stop(self) -> None:
        """Close the connections."""
        tasks = [task for task in (self._renewing, self._returning) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._shared.stop()

    async def admit(self, ask: Ask) -> Verdict:
        """See Counters."""
        if self._is_up:
            try:
                verdict = await self._shared.admit(ask)
            except CountersAway as error:
                self.fall(error)
            else:
                if not verdict.refused:
                    self._alone.take_place(ask)
                return verdict
        if ask.has_budget:
            raise _unavailable()
        return await self._alone.admit(ask)

    async def draw(self, draw: Draw) -> Drawn:
        """See Counters."""
        if self._is_up:
            try:
                return await self._shared.draw(draw)
            except CountersAway as error:
                self.fall(error)
        raise _unavailable()

    async def settle(self, rest: Rest) -> None:
        """See Counters. What cannot be told now is told later, but nothing is given back twice."""
        await self._alone.settle(rest)
        if not self._is_up:
            self._owed.append(rest)
            return
        self._owed.append(rest)
        try:
            await self._settle_owed()
        except CountersAway as error:
            self.fall(error)

    async def seed(self, caller: str, spent: Spent) -> None:
        """See Counters."""
        try:
            await self._shared.seed(caller, spent)
        except CountersAway as error:
            self.fall(error)
            raise _unavailable() from error

    def fall(self, error: CountersAway) -> None:
        """The shared store did not answer: nobody asks it until it does again."""
        if not self._is_up:
            return
        self._is_up = False
        self._on_change(False)
        log.warning("limits_store_away", extra={"error": str(error)})
        self._returning = asyncio.create_task(self._return(), name="return to the shared counts")

    async def _return(self) -> None:
        """Come back when it answers again, and has heard what happened meanwhile."""
        pause_s = 0.0
        while not self._is_up:
            await asyncio.sleep(pause_s)
            pause_s = min(max(FIRST_PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S)
            try:
                await self._shared.drop()
                await self._shared.ping()
                await self._renew()
                await self._settle_owed()
                self._is_up = True
            except CountersAway:
                continue
            except Exception:  # whatever it is: a gateway that looks no more never comes back
                log.exception("limits_return_failed")
        self._on_change(True)
        log.warning("limits_store_back")

    async def _settle_owed(self) -> None:
        while self._owed:
            rest = self._owed.pop(0)
            try:
                await self._shared.settle(rest)
            except CountersAway:
                # It may have been done: what was granted stays spent, what is owed above it is not
                # forgotten.
                if rest.grant and rest.cost_nano_usd > rest.grant.nano_usd:
                    self._owed.append(rest)
                raise

    async def _renew_often(self) -> None:
        while True:
            await asyncio.sleep(self._renewal_s)
            if self._is_up:
                try:
                    await self._renew()
                except CountersAway as error:
                    self.fall(error)

    async def _renew(self) -> None:
        for caller, leases in list(self._alone.places.items()):
            await self._shared.renew(caller, list(leases))
        for renew in self._others:
            await renew()


def _unavailable() -> LimitsUnavailable:
    return LimitsUnavailable(
        "what the caller has spent is not known now", retry_after_s=LONGEST_PAUSE_S
    )
