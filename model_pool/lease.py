"""The right to run one request on one worker, and what becomes of it where that worker fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection
from typing import Protocol

from deltafleet.v1 import worker_pb2
from model_pool.attempt import Attempt, Spent
from model_pool.errors import Draining, FleetError, PoolSaturated, WorkerLost
from model_pool.hedging import Hedging
from model_pool.waits import Wait, Waits

# Why a request moved to another worker, as the metric tells it.
RETRY_REASONS = ("draining", "lost", "saturated", "silent")
OTHERS_LIMIT_S = 2.0  # a step that computes is not interrupted; a worker may have stopped, too
log = logging.getLogger(__name__)


class Places(Protocol):
    """What a lease asks of the pool."""

    def take(self, model: str, key: str, avoid: Collection[str] = ()) -> Attempt:
        """A place for one more request; on a worker of avoid only where no other one is ready.

        Raises PoolSaturated.
        """
        ...

    def has_room(self, model: str, avoid: Collection[str]) -> bool:
        """Whether a worker besides those of avoid has a place for it."""
        ...

    async def wait_until_ready(self, model: str) -> None:
        """Return when a worker that serves the model takes requests."""
        ...

    def expect(self, attempt: Attempt) -> contextlib.AbstractContextManager[None]:
        """For as long as a first word is awaited: may end the wait where the worker is silent."""
        ...

    def count_retry(self, reason: str) -> None:
        """A request moves, for one of RETRY_REASONS."""
        ...


class Lease:
    """The right to run one request on one worker.

    A worker that goes away, falls silent or is full before its first word is replaced once; after
    it, never silently. One that refuses because it stops is replaced as often as there is another.
    hedging: None where the request must not run twice.
    """

    def __init__(
        self, places: Places, model: str, key: str, wait: Wait, hedging: Hedging | None
    ) -> None:
        self._places = places
        self._model = model
        self._key = key
        self._wait = wait
        self._hedging = hedging
        self._may_move = True
        self._is_hedged = False
        self._attempt = places.take(model, key)
        self._attempts = [self._attempt]
        self._given_up: dict[str, asyncio.Task[Spent | None]] = {}  # by worker: what it used

    @property
    def worker(self) -> str:
        """The worker that has the request now, or had it last."""
        return self._attempt.worker

    @property
    def price_nano_usd_per_hour(self) -> int:
        """That worker's."""
        return self._attempt.price_nano_usd_per_hour

    def release(self) -> None:
        """Give the places back."""
        for attempt in self._attempts:
            attempt.release()

    async def generate(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        """Stream the answer. Raises the worker's own failure, or WorkerLost where it went away."""
        limit = _Limit(timeout_s)
        try:
            if self._hedging is None:
                await self._begin(request, limit)
            else:
                await self._begin_hedged(self._hedging, request, limit)
            self._wait.end()
            yield self._attempt.last
            async for response in self._attempt.rest:
                yield response
        finally:
            for attempt in self._attempts:
                await attempt.close()

    async def settle(
        self, request: worker_pb2.RunRequest, told: worker_pb2.RunResponse
    ) -> list[Spent]:
        """What its runs used beyond told, the last word that was passed on of the answer.

        That is runs that were given up for others and, where told is not its end, the answer's own.
        Who has the whole answer waits no longer than a moment for a worker that does not say.
        """
        is_whole = bool(told.finish_reason)
        tasks = [*self._given_up.values(), *([] if is_whole else self._ask_rest(request, told))]
        if not tasks:
            return []
        done, late = await asyncio.wait(tasks, timeout=OTHERS_LIMIT_S if is_whole else None)
        for task in late:
            task.cancel()
            extra = {"request_id": request.request_id, "status": "LATE"}
            log.info("run_not_settled", extra=extra)
        return [spent for task in done if (spent := task.result()) is not None]

    def _ask_rest(
        self, request: worker_pb2.RunRequest, told: worker_pb2.RunResponse
    ) -> list[asyncio.Task[Spent | None]]:
        """Of the answer's own run, and of another that was under way beside it."""
        nothing, latest = worker_pb2.RunResponse(), [*self._attempts, self._attempt]
        by_worker = {one.worker: one for one in latest if one.worker not in self._given_up}
        return [
            asyncio.create_task(one.settle(request, told if one is self._attempt else nothing))
            for one in by_worker.values()
        ]

    @property
    def has_others(self) -> bool:
        """Whether a run was given up for another."""
        return bool(self._given_up)

    async def _begin(self, request: worker_pb2.RunRequest, limit: _Limit) -> None:
        """Up to a first word, on the worker that it was leased or on another."""
        while True:
            attempt = self._attempt
            try:
                return await self._first_word(attempt, request, limit)
            except (Draining, PoolSaturated, WorkerLost) as error:
                if not isinstance(error, PoolSaturated):
                    attempt.member.suspect()
                if not self._may_follow(error):
                    raise
                self._places.count_retry(_reason(error, attempt))
                await self._give_up(attempt, request)
                await self._move()

    async def _first_word(
        self, attempt: Attempt, request: worker_pb2.RunRequest, limit: _Limit
    ) -> None:
        with self._places.expect(attempt):
            await attempt.begin(request, limit.left_s)

    def _may_follow(self, error: FleetError) -> bool:
        if self._is_hedged:
            return False  # it has moved
        if isinstance(error, Draining):
            return True  # it did nothing yet
        if not self._may_move:
            return False
        if isinstance(error, PoolSaturated) and not self._places.has_room(self._model, self._tried):
            return False
        self._may_move = False
        return True

    async def _give_up(self, attempt: Attempt, request: worker_pb2.RunRequest) -> None:
        """For another; what it used is asked while that one answers."""
        await attempt.close()
        attempt.release()
        if attempt.may_owe:
            asked = attempt.settle(request, worker_pb2.RunResponse())
            self._given_up[attempt.worker] = asyncio.create_task(asked)

    async def _move(self) -> None:
        await self._places.wait_until_ready(self._model)
        self._attempt = self._places.take(self._model, self._key, self._tried)
        self._attempts.append(self._attempt)
        if task := self._given_up.pop(self.worker, None):
            task.cancel()  # a worker tells the last run of a request alone

    @property
    def _tried(self) -> set[str]:
        return {one.worker for one in self._attempts}

    async def _begin_hedged(
        self, hedging: Hedging, request: worker_pb2.RunRequest, limit: _Limit
    ) -> None:
        """The same; where the first word takes long, another worker runs the request, too."""
        if await hedging.race(
            self._begin(request, limit),
            self._take_second,
            lambda: self._first_word(self._attempts[-1], request, limit),
        ):
            self._attempt = self._attempts[-1]
        for attempt in self._attempts:
            if attempt is not self._attempt and attempt.has_place:
                await self._give_up(attempt, request)

    def _take_second(self) -> bool:
        if not self._attempt.has_place or not self._places.has_room(self._model, self._tried):
            return False
        self._attempts.append(self._places.take(self._model, "", self._tried))
        self._is_hedged = True
        return True


class Leasing:
    """A place that is looked for, and then leased, for as long as an `async with` block lasts."""

    def __init__(
        self, places: Places, model: str, key: str, waits: Waits, hedging: Hedging | None
    ) -> None:
        self._places = places
        self._model = model
        self._key = key
        self._waits = waits
        self._hedging = hedging

    async def __aenter__(self) -> Lease:
        self._wait = self._waits.begin(self._model)
        try:
            await self._places.wait_until_ready(self._model)
            self._lease = Lease(self._places, self._model, self._key, self._wait, self._hedging)
        except BaseException:
            self._wait.end()
            raise
        return self._lease

    async def __aexit__(self, *_: object) -> None:
        self._lease.release()
        self._wait.end()


class Expected:
    """While a `with` block lasts, an attempt is among those whose first word is awaited."""

    def __init__(self, among: dict[Attempt, None], attempt: Attempt) -> None:
        self._among = among
        self._attempt = attempt

    def __enter__(self) -> None:
        self._among[self._attempt] = None

    def __exit__(self, *_: object) -> None:
        del self._among[self._attempt]


class _Limit:
    """What is left of a request's time. timeout_s: None for as long as it likes."""

    def __init__(self, timeout_s: float | None) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until_s = None if timeout_s is None else self._clock() + timeout_s

    @property
    def left_s(self) -> float | None:
        """Seconds."""
        return None if self._until_s is None else max(0.0, self._until_s - self._clock())


def _reason(error: FleetError, attempt: Attempt) -> str:
    if isinstance(error, Draining):
        return "draining"
    if isinstance(error, PoolSaturated):
        return "saturated"
    return "silent" if attempt.was_silent else "lost"
