"""Whose seconds were they, where nothing is seen of the engine: wall time, divided equally."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class SharedTime:
    """The wall time in which at least one request is in flight.

    Each moment is divided equally among the requests that are in flight then, so that all shares
    add up to `busy_s`. clock: seconds from any origin.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._count = 0
        self._busy_s = 0.0
        self._share_s = 0.0  # of a request that was there all the time
        self._settled_s = clock()

    @property
    def busy_s(self) -> float:
        """Up to now."""
        self._settle()
        return self._busy_s

    @contextlib.contextmanager
    def request(self) -> Iterator[Callable[[], float]]:
        """One request is in flight inside. Yields what tells its share up to now."""
        self._settle()
        self._count += 1
        begun_s = self._share_s

        def share_s() -> float:
            self._settle()
            return self._share_s - begun_s

        try:
            yield share_s
        finally:
            self._settle()
            self._count -= 1

    def _settle(self) -> None:
        now_s = self._clock()
        if self._count:
            self._busy_s += now_s - self._settled_s
            self._share_s += (now_s - self._settled_s) / self._count
        self._settled_s = now_s
