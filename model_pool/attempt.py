"""One run of a request on one worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from deltafleet.v1 import worker_pb2
from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool.breaker import Breaker
from model_pool.errors import Draining, FleetError, PoolSaturated, WorkerLost
from model_pool.member import RETRY_AFTER_S, Member


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run used that no piece of its answer told."""

    worker: str
    price_nano_usd_per_hour: int
    prompt_token_count: int
    output_token_count: int
    busy_s: float


class Attempt:
    """A place on one worker, the run there, and what it means for the worker's breaker.

    last: its last word, empty before the first.
    """

    def __init__(self, member: Member, model: str, breaker: Breaker) -> None:
        self.member = member
        self.model = model
        self.worker = member.name
        self.price_nano_usd_per_hour = member.status.price_nano_usd_per_hour if member.status else 0
        self.last = worker_pb2.RunResponse()
        self.was_silent = False
        self.did_nothing = True  # as far as is known
        self._breaker = breaker
        self._ticket = breaker.begin()
        self._patience: asyncio.Timeout | None = None
        self._stream: AsyncGenerator[worker_pb2.RunResponse, None] | None = None
        self.has_place = True
        member.in_flight_count += 1

    @property
    def rest(self) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        """What follows the first word."""
        assert self._stream is not None, "it has begun"
        return self._stream

    def release(self) -> None:
        """Give the place back. A second time is no fault."""
        if self.has_place:
            self.has_place = False
            self.member.in_flight_count -= 1
            self._breaker.drop(self._ticket)

    async def begin(self, request: worker_pb2.RunRequest, timeout_s: float | None) -> None:
        """Run it up to its first word, which is `last` then.

        Raises the worker's own failure, or WorkerLost where it went away or somebody made it leave.
        """
        self._stream = self._run(request, timeout_s)
        try:
            async with asyncio.timeout(None) as patience:
                self._patience = patience
                await anext(self._stream)
        except TimeoutError:
            if not patience.expired():
                raise
            self.was_silent = True
            self._breaker.fail(self._ticket)
            raise self._lost("says nothing any more") from None
        finally:
            self._patience = None

    async def close(self) -> None:
        """End the run. A second time is no fault."""
        if self._stream is not None:
            await self._stream.aclose()

    def leave(self) -> None:
        """End a run without a first word, as its worker is silent and another has room."""
        patience, self._patience = self._patience, None  # it runs out but once
        if patience is not None:
            patience.reschedule(asyncio.get_running_loop().time())

    async def _run(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        self.did_nothing = has_begun = False
        try:
            async with contextlib.aclosing(self.member.run(request, timeout_s)) as responses:
                async for self.last in responses:
                    if self.last.finish_reason:
                        self._breaker.succeed(self._ticket)
                    elif not has_begun:
                        has_begun = True
                        self._breaker.hear(self._ticket)
                    yield self.last
            if not self.last.finish_reason:
                raise self._lost("ended its answer without saying why")
        except (Draining, PoolSaturated):
            self.did_nothing = not self.last.ByteSize()
            raise
        except FleetError as error:
            if _is_the_workers(error):
                self._breaker.fail(self._ticket)
            raise

    def _lost(self, what: str) -> WorkerLost:
        return WorkerLost(
            f"worker {self.worker} {what}", retry_after_s=RETRY_AFTER_S, worker=self.worker
        )

    @property
    def may_owe(self) -> bool:
        """Whether it may have used something that it can tell."""
        return not self.did_nothing and not self.member.is_silent

    async def settle(
        self, request: worker_pb2.RunRequest, told: worker_pb2.RunResponse
    ) -> Spent | None:
        """All that it used beyond what it told; None where nobody can say any more."""
        used = await self.member.settle(request) if self.may_owe else None
        if used is None:
            return None
        return Spent(
            self.worker,
            self.price_nano_usd_per_hour,
            prompt_token_count=used.prompt_token_count - told.prompt_token_count,
            output_token_count=used.output_token_count - told.output_token_count,
            busy_s=used.busy_s - told.busy_s,
        )


def _is_the_workers(error: FleetError) -> bool:
    """Whether the worker failed, rather than the request, its caller or its model's files."""
    return isinstance(error, WorkerLost) or error.reason == ErrorReason.ERROR_REASON_INTERNAL
