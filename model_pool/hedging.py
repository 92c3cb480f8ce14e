"""A second run of a slow request on another worker: the first word wins.

Dean and Barroso 2013, The tail at scale, Communications of the ACM 56(2): a second request only
after a wait that most requests do not need, and the other one cancelled at once, takes most of the
tail for a few percent of load.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from model_pool.settings import Hedging as HedgingSettings

# Whose word came first, as the metric tells it; none: both failed, or the caller left.
WINNERS = ("first", "second", "none")
_MOST_SAVED_COUNT = 10
_PER_REQUEST = 1_000_000
Run = Coroutine[Any, Any, None]


class HedgeBudget:
    """Of all requests so far, never more than a share had a second run.

    What was not used is kept for ten second runs at most: a long calm is no reason for a storm.
    """

    def __init__(self, most_share: float) -> None:
        self._share = int(most_share * _PER_REQUEST)
        self._saved = 0

    def arrive(self) -> None:
        """One more request."""
        self._saved = min(self._saved + self._share, _MOST_SAVED_COUNT * _PER_REQUEST)

    @property
    def has_room(self) -> bool:
        """Whether a request may run twice now."""
        return self._saved >= _PER_REQUEST

    def spend(self) -> None:
        """One does."""
        assert self.has_room, "asked before"
        self._saved -= _PER_REQUEST


class Hedging:
    """Second runs, and who won so far."""

    def __init__(self, settings: HedgingSettings) -> None:
        self.counts = Counter[str]()
        self._after_s = settings.after_s
        self._budget = HedgeBudget(settings.most_share)

    async def race(
        self, first: Run, take_second: Callable[[], bool], second: Callable[[], Run]
    ) -> bool:
        """Run the first; where it takes long and there is a place for it, the second, too.

        Returns whether the second won; the other one has ended by then. take_second: returns
        whether there is a place, which is taken. Where both fail, raises what the first raised.
        """
        self._budget.arrive()
        tasks = [asyncio.create_task(first)]
        winner = "none"
        try:
            await asyncio.wait(tasks, timeout=self._after_s)
            if tasks[0].done() or not self._budget.has_room or not take_second():
                await tasks[0]
                return False
            self._budget.spend()
            tasks.append(asyncio.create_task(second()))
            won = await _first_to_succeed(tasks)
            won.result()
            winner = "second" if won is tasks[1] else "first"
            return won is tasks[1]
        finally:
            if len(tasks) > 1:
                self.counts[winner] += 1
            await _end(tasks)


async def _first_to_succeed(tasks: list[asyncio.Task[None]]) -> asyncio.Task[None]:
    """The first of them where none does."""
    pending: Iterable[asyncio.Task[None]] = tasks
    while pending:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is None:
                return task
    return tasks[0]


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
