"""The configuration in force, and those that are still in use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.caller import Call
from gateway.configuration.configured import Configured
from gateway.encoder import BatchedEncoder
from gateway.long_lived import set_apart_again
from gateway.walk import Event


class Current:
    """Which configuration is in force. A request keeps the one that it began with.

    One that was replaced is closed when the last of its requests has ended. now: the one in force;
    replaced, never changed: others read it from threads of their own.
    """

    def __init__(self, first: Configured) -> None:
        self.now = first
        self._closing: set[asyncio.Task[None]] = set()

    def replace(self, configured: Configured) -> None:
        """Put another in force."""
        before, self.now = self.now, configured
        task = asyncio.create_task(_close_for_good(before), name="close a former configuration")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @contextlib.contextmanager
    def encoder(self) -> Iterator[BatchedEncoder]:
        """The one in force, for as long as it is used."""
        now = self.now
        with now.in_use:
            yield now.encoder

    async def left(self) -> None:
        """Return when no request goes by one that was replaced before."""
        await asyncio.gather(*self._closing)

    async def stop(self) -> None:
        """Close all of them, once their requests have ended."""
        await asyncio.gather(*self._closing, _close(self.now))


async def _close_for_good(configured: Configured) -> None:
    await _close(configured)
    set_apart_again()


async def _close(configured: Configured) -> None:
    await configured.in_use.until_unused()
    await configured.close()


class CurrentWalk:
    """The walk of the configuration in force; each request walks all of its way by one."""

    def __init__(self, current: Current) -> None:
        self._current = current

    async def route(
        self, request: routing_pb2.RouteRequest, call: Call
    ) -> routing_pb2.RouteResponse:
        """See Walk."""
        return await self._current.now.walk.route(request, call)

    async def whole(
        self, request: inference_pb2.GenerateRequest, call: Call
    ) -> inference_pb2.GenerateResponse:
        """See Walk."""
        return await self._current.now.walk.whole(request, call)

    def stream(
        self, request: inference_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[Event, None]:
        """See Walk."""
        return self._current.now.walk.stream(request, call)
