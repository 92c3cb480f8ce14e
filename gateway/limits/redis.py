"""Counts that all gateways share, in Redis. Each call is one round trip, and one script."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gateway.caller import Limits
from gateway.limits.counters import (
    PLACE_RETRY_S,
    Ask,
    Draw,
    Drawn,
    Grant,
    Limit,
    Rate,
    Refused,
    Rest,
    Spent,
    Unseeded,
    Verdict,
)
from gateway.limits.link import RedisLink

SCRIPTS = Path(__file__).parent / "scripts"
NO_LIMIT = -1
UNSEEDED = b"unseeded"


class RedisCounters:
    """See Counters.

    prefix: of all keys. lease_s: how long the place of a gateway that died stays taken.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        connect_timeout_s: float,
        operation_timeout_s: float,
        lease_s: float,
    ) -> None:
        self._prefix = prefix
        self._lease_ms = round(lease_s * 1000)
        self.link = RedisLink(
            url, connect_timeout_s=connect_timeout_s, operation_timeout_s=operation_timeout_s
        )
        self._redis = self.link.redis
        self._admit = self._script("time", "window", "account", "admit")
        self._draw = self._script("time", "account", "draw")
        self._settle = self._script("time", "account", "settle")
        self._seed = self._script("seed")
        self._renew = self._script("time", "renew")

    @property
    def is_shared(self) -> bool:
        """See Counters."""
        return True

    async def ping(self) -> None:
        """Ask whether it is there. Raises CountersAway."""
        await self.link.ping()

    async def drop(self) -> None:
        """Close its connections; the next call makes a new one. Raises CountersAway."""
        await self.link.drop()

    async def stop(self) -> None:
        """Close its connections for good."""
        await self.link.stop()

    async def admit(self, ask: Ask) -> Verdict:
        """See Counters."""
        limits = ask.limits
        reply = await self._call(
            self._admit,
            [self._key(kind, ask.caller) for kind in ("requests", "tokens", "places", "account")],
            [
                *_numbers(limits.requests_per_minute, limits.tokens_per_minute),
                *_numbers(limits.concurrent_streams),
                *_budgets(limits),
                *(ask.token_count, ask.lease, self._lease_ms, ask.wanted_nano_usd),
            ],
        )
        refused, after_ms, asked, asked_ms, used, used_ms, second, *grant = reply
        return Verdict(
            _refused(refused, after_ms),
            _rate(limits.requests_per_minute, asked, asked_ms),
            _rate(limits.tokens_per_minute, used, used_ms),
            second,
            _grant(grant) if ask.has_budget and not refused else None,
        )

    async def draw(self, draw: Draw) -> Drawn:
        """See Counters."""
        grant = draw.grant
        refused, after_ms, *drawn = await self._call(
            self._draw,
            [self._key("account", draw.caller)],
            [
                *_budgets(draw.limits),
                *(grant.nano_usd, grant.epoch, draw.cost_nano_usd, draw.wanted_nano_usd),
                int(draw.is_whole),
            ],
        )
        return Drawn(_grant(drawn), _refused(refused, after_ms))

    async def settle(self, rest: Rest) -> None:
        """See Counters."""
        grant = rest.grant or Grant(0, "", 0, 0)
        await self._call(
            self._settle,
            [self._key(kind, rest.caller) for kind in ("tokens", "places", "account")],
            [
                *(rest.lease, rest.second, rest.token_count),
                *(grant.nano_usd, grant.epoch, grant.day, grant.month, rest.cost_nano_usd),
            ],
        )

    async def seed(self, caller: str, spent: Spent) -> None:
        """See Counters."""
        await self._call(
            self._seed,
            [self._key("account", caller)],
            [
                *(str(uuid.uuid4()), spent.day, spent.day_nano_usd),
                *(spent.month, spent.month_nano_usd),
            ],
        )

    async def renew(self, caller: str, leases: Iterable[str]) -> None:
        """Say that these are still being answered, or are. Raises CountersAway."""
        await self._call(self._renew, [self._key("places", caller)], [self._lease_ms, *leases])

    def _script(self, *names: str) -> Any:
        return self.link.script(SCRIPTS / f"{name}.lua" for name in names)

    def _key(self, kind: str, caller: str) -> str:
        return f"{self._prefix}:limits:{kind}:{{{caller}}}"

    async def _call(self, script: Any, keys: Sequence[str], values: Sequence[object]) -> list[Any]:
        reply = await self.link.run(script(keys=keys, args=values))
        if isinstance(reply, list) and reply[0] == UNSEEDED:
            raise Unseeded
        return reply if isinstance(reply, list) else [reply]


def _numbers(*limits: int | None) -> list[int]:
    return [NO_LIMIT if limit is None else limit for limit in limits]


def _budgets(limits: Limits) -> list[int]:
    return _numbers(limits.daily_budget_nano_usd, limits.monthly_budget_nano_usd)


def _refused(name: bytes, after_ms: int) -> Refused | None:
    if not name:
        return None
    limit = Limit(name.decode())
    if limit is Limit.STREAMS:
        return Refused(limit, PLACE_RETRY_S)
    return Refused(limit, None if after_ms == NO_LIMIT else after_ms / 1000)


def _rate(limit: int | None, remaining: int, reset_ms: int) -> Rate | None:
    return None if limit is None else Rate(limit, remaining, reset_ms / 1000)


def _grant(found: Sequence[Any]) -> Grant:
    nano_usd, epoch, day, month = found
    return Grant(nano_usd, epoch.decode(), day, month)
