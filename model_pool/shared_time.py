"""Whose seconds were they, where nothing is seen of the engine: wall time, divided equally."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from model_pool.engine_time import US_PER_S, Activity, EngineTime


class SharedTime:
    """The wall time in which at least one request is in flight.

    Each moment is divided equally among the requests that are in flight then, so that all shares
    add up to the time in which `time` was told that something computes.
    """

    def __init__(self, time: EngineTime) -> None:
        """time: told when something computes, and read."""
        self._time = time
        self._count = 0
        self._share_s = 0.0  # of a request that was there all the time
        self._settled_us = time.now_us()

    @contextlib.contextmanager
    def request(self) -> Iterator[Callable[[], float]]:
        """One request is in flight inside. Yields what tells its share up to now."""
        self._settle(self._time.begin(Activity.COMPUTING))
        self._count += 1
        begun_s = self._share_s
        share_at_end_s: float | None = None

        def share_s() -> float:
            if share_at_end_s is not None:
                return share_at_end_s
            self._settle(self._time.now_us())
            return self._share_s - begun_s

        try:
            yield share_s
        finally:
            self._settle(self._time.end(Activity.COMPUTING))
            self._count -= 1
            share_at_end_s = self._share_s - begun_s

    def _settle(self, now_us: int) -> None:
        if self._count:
            self._share_s += (now_us - self._settled_us) / US_PER_S / self._count
        self._settled_us = now_us
