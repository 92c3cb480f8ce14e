"""The one client of the Redis that all gateways share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.limits.counters import CountersAway


class RedisLink:
    """Every command has an end: its answer, or CountersAway after both timeouts."""

    def __init__(self, url: str, *, connect_timeout_s: float, operation_timeout_s: float) -> None:
        # A command that may have been done is not sent again: it would count twice.
        self.redis = Redis.from_url(
            url,
            socket_connect_timeout=connect_timeout_s,
            socket_timeout=operation_timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._timeout_s = connect_timeout_s + operation_timeout_s

    def script(self, paths: Iterable[Path]) -> Any:
        """These files in a row as one Lua script."""
        texts = [path.read_text(encoding="utf-8") for path in paths]
        return self.redis.register_script("\n".join(texts))

    async def run(self, command: Any) -> Any:
        """Its answer. Raises CountersAway."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise CountersAway(type(error).__name__) from error

    async def ping(self) -> None:
        """Ask whether it is there. Raises CountersAway."""
        await self.run(self.redis.ping())

    async def drop(self) -> None:
        """Close its connections; the next call makes a new one. Raises CountersAway."""
        await self.run(self.redis.connection_pool.disconnect())

    async def stop(self) -> None:
        """Close its connections for good."""
        with contextlib.suppress(CountersAway):
            await self.run(self.redis.aclose())
