"""Whose seconds were they: an engine's busy time, divided among the requests that ran in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model_pool.turns import Pace

# How much the newest step counts in a measured pace.
NEWEST_SHARE = 0.1


@dataclass(slots=True, eq=False)
class Account:
    """One request's share so far."""

    busy_s: float = 0.0


class BusyMeter:
    """Divides the wall time in which at least one request runs, so that all shares add up to it.

    The engine computes elsewhere, in steps; what is seen of a step is the tokens that come out of
    it, for several requests at once. The seconds since the step before are divided by them. A
    prompt counts when its first answer token comes, so a prompt that is read in several steps
    beside others pays its last one.

    pace: what a step and a prompt token take, a moving average.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds from any origin."""
        self.busy_s = 0.0
        self.pace = Pace()
        self._clock = clock
        self._running: set[Account] = set()
        self._step: dict[Account, int] = {}
        self._settled_s = 0.0

    @property
    def running_count(self) -> int:
        return len(self._running)

    def enter(self, account: Account) -> None:
        """A request begins to run, or goes on."""
        if not self._running:
            self._settled_s = self._clock()
        self._running.add(account)

    def note(self, account: Account, token_count: int) -> None:
        """Tokens of this request came out of the step that ends with the next `settle`."""
        self._step[account] = self._step.get(account, 0) + token_count

    def settle(self) -> None:
        """Divide the seconds since the last time among what was noted since then."""
        total = sum(self._step.values())
        if not total:
            return
        now_s = self._clock()
        seconds = now_s - self._settled_s
        for account, token_count in self._step.items():
            account.busy_s += seconds * token_count / total
        self.busy_s += seconds
        self._settled_s = now_s
        self._measure(seconds, total)
        self._step.clear()

    def leave(self, account: Account, *, is_finished: bool) -> None:
        """The request ends or pauses. One broken off pays its part of the step it was in."""
        self.settle()
        if not is_finished:
            seconds = (self._clock() - self._settled_s) / len(self._running)
            account.busy_s += seconds
            self.busy_s += seconds
            self._settled_s += seconds
        self._running.remove(account)

    def _measure(self, seconds: float, token_count: int) -> None:
        if token_count == len(self._step):  # one token each: nothing but decoding
            self.pace.step_s = _moved(self.pace.step_s, seconds)
        else:
            self.pace.prompt_token_s = _moved(self.pace.prompt_token_s, seconds / token_count)


def _moved(average: float, newest: float) -> float:
    return average + NEWEST_SHARE * (newest - average) if average else newest
