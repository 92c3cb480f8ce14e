"""When a worker whose requests fail is left alone, and when it is tried again."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from enum import IntEnum
from functools import partial

from model_pool.member import Member
from model_pool.settings import Breaker as BreakerSettings

log = logging.getLogger(__name__)


class BreakerState(IntEnum):
    """As the metric tells it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """A circuit breaker (Nygard, Release It!, 2007) of one worker's process.

    Closed: requests run. So many failures in a row open it: none runs for a pause. Then one does,
    as a probe. Its first word closes the breaker on trial: the next failure opens it again, for
    twice the pause, and a whole answer ends the trial. A probe that tells nothing of the worker, as
    its caller left, makes room for another.

    clock: seconds. on_change: told each new state.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        clock: Callable[[], float],
        on_change: Callable[[BreakerState], None],
    ) -> None:
        self.state = BreakerState.CLOSED
        self._settings = settings
        self._clock = clock
        self._on_change = on_change
        self._failure_count = 0
        self._next_pause_s = settings.pause_s
        self._until_s = 0.0
        self._era = 0  # what began before it opened says nothing any more

    @property
    def pause_left_s(self) -> float:
        """How long no request runs; 0 also while a probe is under way."""
        return max(0.0, self._until_s - self._clock()) if self.state is BreakerState.OPEN else 0.0

    @property
    def allows(self) -> bool:
        """Whether a request may begin."""
        return self.state is BreakerState.CLOSED or (
            self.state is BreakerState.OPEN and not self.pause_left_s
        )

    def begin(self) -> int:
        """A request begins: the probe, unless closed. Returns its ticket for what comes next."""
        assert self.allows, "nobody begins while it is open"
        if self.state is BreakerState.OPEN:
            self._era += 1
            self._become(BreakerState.HALF_OPEN)
        return self._era

    def hear(self, ticket: int) -> None:
        """The request had a word of its answer."""
        if ticket == self._era and self.state is BreakerState.HALF_OPEN:
            self._failure_count = self._settings.failures - 1
            self._become(BreakerState.CLOSED)

    def succeed(self, ticket: int) -> None:
        """The request had its whole answer."""
        self.hear(ticket)
        if ticket == self._era and self.state is BreakerState.CLOSED:
            self._failure_count = 0
            self._next_pause_s = self._settings.pause_s

    def fail(self, ticket: int) -> None:
        """The worker failed the request."""
        if ticket != self._era or self.state is BreakerState.OPEN:
            return
        self._failure_count += 1
        if self._failure_count >= self._settings.failures:
            self._open(self._next_pause_s)
            self._next_pause_s = min(2 * self._next_pause_s, self._settings.longest_pause_s)

    def drop(self, ticket: int) -> None:
        """The request ended. Where it has told nothing, nothing is known of the worker."""
        if ticket == self._era and self.state is BreakerState.HALF_OPEN:
            self._open(0.0)

    def _open(self, pause_s: float) -> None:
        self._failure_count = self._settings.failures - 1  # the probe's failure is one more
        self._until_s = self._clock() + pause_s
        self._era += 1
        self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        self.state = state
        self._on_change(state)


class Breakers:
    """A breaker for each worker, a new one for each of its lives.

    on_change: called after every change of a state. States may be read from other threads.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._on_change = on_change
        self._clock = clock
        self._held: weakref.WeakKeyDictionary[Member, tuple[str, Breaker]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, member: Member) -> Breaker:
        """The breaker of the life that the member told of last."""
        incarnation = member.incarnation
        held = self._held.get(member)
        if held is not None and held[0] == incarnation:
            return held[1]
        breaker = Breaker(self._settings, self._clock, partial(self._tell, member))
        self._held[member] = (incarnation, breaker)
        return breaker

    def state(self, member: Member) -> BreakerState:
        """Closed where nobody has asked the member for anything yet."""
        held = self._held.get(member)
        return held[1].state if held else BreakerState.CLOSED

    def _tell(self, member: Member, state: BreakerState) -> None:
        level = logging.WARNING if state is BreakerState.OPEN else logging.INFO
        extra = {"worker": member.name, "state": state.name.lower()}
        log.log(level, "worker_breaker_changed", extra=extra)
        self._on_change()
