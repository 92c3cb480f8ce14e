"""Counts of one gateway alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from gateway.limits.account import OWN_EPOCH, Account
from gateway.limits.counters import (
    PLACE_RETRY_S,
    Ask,
    Draw,
    Drawn,
    Grant,
    Limit,
    Refused,
    Rest,
    Spent,
    Unseeded,
    Verdict,
)
from gateway.limits.window import Window

NOTHING = Grant(0, OWN_EPOCH, 0, 0)


class MemoryCounters:
    """See Counters. Nothing is awaited in it, so that each call is one step.

    clock: seconds, monotonic. wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._requests: dict[str, Window] = {}
        self._tokens: dict[str, Window] = {}
        self._places: dict[str, set[str]] = {}
        self._accounts: dict[str, Account] = {}

    @property
    def is_shared(self) -> bool:
        """See Counters."""
        return False

    @property
    def places(self) -> Mapping[str, set[str]]:
        """The names of what is being answered, by caller."""
        return self._places

    async def admit(self, ask: Ask) -> Verdict:
        """See Counters."""
        if ask.has_budget and ask.caller not in self._accounts:
            raise Unseeded
        now_s = self._clock()
        requests = self._requests.setdefault(ask.caller, Window())
        tokens = self._tokens.setdefault(ask.caller, Window())
        refused = (
            _full(Limit.REQUESTS, requests, ask.limits.requests_per_minute, 1, now_s)
            or _full(Limit.TOKENS, tokens, ask.limits.tokens_per_minute, ask.token_count, now_s)
            or self._crowded(ask)
        )
        grant = None
        if refused is None and ask.has_budget:
            refused, grant = self._first_grant(ask)
        if refused is None:
            requests.add(now_s, 1)
            tokens.add(now_s, ask.token_count)
            self.take_place(ask)
        limits = ask.limits
        return Verdict(
            refused,
            None
            if limits.requests_per_minute is None
            else requests.rate(now_s, limits.requests_per_minute),
            None
            if limits.tokens_per_minute is None
            else tokens.rate(now_s, limits.tokens_per_minute),
            int(now_s),
            grant,
        )

    async def draw(self, draw: Draw) -> Drawn:
        """See Counters."""
        account = self._accounts.get(draw.caller)
        if account is None:
            raise Unseeded
        return account.draw(draw, self._wall_clock())

    async def settle(self, rest: Rest) -> None:
        """See Counters."""
        self.leave_place(rest.caller, rest.lease)
        if rest.caller in self._tokens:
            self._tokens[rest.caller].correct(rest.second, rest.token_count)
        if rest.grant is not None and rest.caller in self._accounts:
            self._accounts[rest.caller].settle(rest, rest.grant)

    async def seed(self, caller: str, spent: Spent) -> None:
        """See Counters."""
        self._accounts.setdefault(caller, Account(spent))

    def take_place(self, ask: Ask) -> None:
        """Count one that is being answered, where there is a limit, but whatever it is."""
        if ask.limits.concurrent_streams is not None:
            self._places.setdefault(ask.caller, set()).add(ask.lease)

    def leave_place(self, caller: str, lease: str) -> None:
        """It is not answered any more."""
        places = self._places.get(caller, set())
        places.discard(lease)
        if not places:
            self._places.pop(caller, None)

    def _crowded(self, ask: Ask) -> Refused | None:
        limit = ask.limits.concurrent_streams
        if limit is None or len(self._places.get(ask.caller, ())) < limit:
            return None
        return Refused(Limit.STREAMS, PLACE_RETRY_S)

    def _first_grant(self, ask: Ask) -> tuple[Refused | None, Grant | None]:
        one = Draw(ask.caller, ask.limits, NOTHING, 1, ask.wanted_nano_usd, is_whole=True)
        drawn = self._accounts[ask.caller].draw(one, self._wall_clock())
        return drawn.refused, None if drawn.refused else drawn.grant


def _full(
    limit: Limit, window: Window, largest: int | None, count: int, now_s: float
) -> Refused | None:
    """Why so much more does not fit; None: it does."""
    if largest is None:
        return None
    excess = window.sum(now_s) + count - largest
    if excess <= 0:
        return None
    return Refused(limit, window.wait_s(now_s, excess))
