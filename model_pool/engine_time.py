"""Where an engine's time goes: every moment is one thing only, so that nothing is paid twice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

US_PER_S = 1_000_000


class Activity(IntEnum):
    """What takes time. Where several go on at once, the first of them has the moment."""

    COMPUTING = 0
    SWITCHING = 1
    LOADING = 2


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds, each a whole number of microseconds. What the parts leave of elapsed_s is idle."""

    elapsed_s: float
    busy_s: float
    switch_s: float
    load_s: float

    def since(self, before: Spent) -> Spent:
        """What came after that."""
        return Spent(
            _less_s(self.elapsed_s, before.elapsed_s),
            _less_s(self.busy_s, before.busy_s),
            _less_s(self.switch_s, before.switch_s),
            _less_s(self.load_s, before.load_s),
        )


class EngineTime:
    """Counts the time in which something computes, else is switched, else is loaded.

    In whole microseconds, so that the parts never add up to more than the time since it was made,
    not by a rounding either: what a worker tells of itself only ever grows, idle time included. May
    be used on several threads.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds from any origin, never going back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = [0] * len(Activity)
        self._spent_us = [0] * len(Activity)
        self._began_us = self._settled_us = self._read_us()

    def begin(self, activity: Activity) -> int:
        """It goes on once more. Returns the time: microseconds from the clock's origin."""
        with self._lock:
            self._settle()
            self._counts[activity] += 1
            return self._settled_us

    def end(self, activity: Activity) -> int:
        """It goes on once less. Returns the time, as `begin`."""
        with self._lock:
            self._settle()
            self._counts[activity] -= 1
            return self._settled_us

    @contextlib.contextmanager
    def within(self, activity: Activity) -> Iterator[None]:
        """It goes on inside."""
        self.begin(activity)
        try:
            yield
        finally:
            self.end(activity)

    def now_us(self) -> int:
        """The time, as `begin`."""
        with self._lock:
            self._settle()
            return self._settled_us

    def spent(self) -> Spent:
        """Up to now, all of it at one moment."""
        with self._lock:
            self._settle()
            elapsed_us = self._settled_us - self._began_us
            busy_s, switch_s, load_s = (one / US_PER_S for one in self._spent_us)
        return Spent(elapsed_us / US_PER_S, busy_s, switch_s, load_s)

    def _settle(self) -> None:
        now_us = self._read_us()
        for activity in Activity:
            if self._counts[activity]:
                self._spent_us[activity] += now_us - self._settled_us
                break
        self._settled_us = now_us

    def _read_us(self) -> int:
        return round(self._clock() * US_PER_S)


def _less_s(later_s: float, earlier_s: float) -> float:
    """Their difference, a whole number of microseconds as they are."""
    return (round(later_s * US_PER_S) - round(earlier_s * US_PER_S)) / US_PER_S
