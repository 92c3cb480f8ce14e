"""Whose weights are live: turns on the one set of live weights of an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from model_pool.engine import Weights


@dataclass(slots=True, eq=False)
class _Waiter:
    weights: Weights
    number: int
    granted: asyncio.Future[None]


class Turns:
    """Places on the live weights; others' weights become live when no place is taken.

    A turn serves everyone who waited for its weights when it began, and whoever comes while nobody
    waits for others. Then it is the turn of the weights that were waited for longest. So a wait is
    bounded by one turn of each of the other models that are waited for.
    """

    def __init__(self, limit_count: int, make_live: Callable[[Weights], Awaitable[None]]) -> None:
        """limit_count: places. make_live: called while none is taken; when it raises, everyone who
        waits for these weights gets the error, and the former ones stay live.
        """
        self._limit_count = limit_count
        self._make_live = make_live
        self._live: Weights | None = None
        self._taken_count = 0
        self._arrival_count = 0
        self._turn_end = 0  # arrivals before it belong to this turn
        self._waiting: list[_Waiter] = []
        self._switch: asyncio.Task[None] | None = None
        self._closed: Exception | None = None

    async def take(self, weights: Weights) -> None:
        """Wait for a place on these weights; `leave` gives it back.

        Raises what make_live raised, or the error that `close` was given.
        """
        if self._closed is not None:
            raise self._closed
        granted = asyncio.get_running_loop().create_future()
        waiter = _Waiter(weights, self._arrival_count, granted)
        self._arrival_count += 1
        self._waiting.append(waiter)
        self._advance()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and not granted.exception():
                self.leave()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
                self._advance()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._taken_count -= 1
        self._advance()

    def forget_live(self) -> None:
        """What is live is not known: the next turn begins with a switch."""
        self._live = None

    async def close(self, error: Exception) -> None:
        """Refuse all who wait and all who come. Returns when no switch is under way."""
        self._closed = error
        self._refuse(self._waiting, error)
        if self._switch is not None:
            await asyncio.wait([self._switch])

    def _advance(self) -> None:
        """Grant what can be granted; begin the next turn when this one is over."""
        if self._switch is not None or self._closed is not None:
            return
        while self._taken_count < self._limit_count and (waiter := self._next_in_turn()):
            self._waiting.remove(waiter)
            if not waiter.granted.done():  # its caller may just have been cancelled
                self._taken_count += 1
                waiter.granted.set_result(None)
        if self._waiting and not self._taken_count:
            self._switch = asyncio.create_task(self._begin_turn(self._waiting[0].weights))

    def _next_in_turn(self) -> _Waiter | None:
        for waiter in self._waiting:
            if waiter.weights == self._live:
                is_first = waiter is self._waiting[0]
                return waiter if is_first or waiter.number < self._turn_end else None
        return None

    async def _begin_turn(self, weights: Weights) -> None:
        try:
            await self._make_live(weights)
            self._live = weights
        except Exception as error:
            self._refuse([one for one in self._waiting if one.weights == weights], error)
        finally:
            self._turn_end = self._arrival_count
            self._switch = None
            self._advance()

    def _refuse(self, waiters: list[_Waiter], error: Exception) -> None:
        self._waiting = [one for one in self._waiting if one not in waiters]
        for waiter in waiters:
            if not waiter.granted.done():
                waiter.granted.set_exception(error)
