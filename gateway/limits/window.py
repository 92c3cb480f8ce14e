"""A minute that slides, in whole seconds."""

from __future__ import annotations

from gateway.limits.counters import WINDOW_S, Rate


class Window:
    """Counts by second. Times are seconds of one clock, which does not go back."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # in the order of time
        self._sum = 0

    def sum(self, now_s: float) -> int:
        """Of what came in within the last minute, and up to a second before."""
        first_s = int(now_s) - WINDOW_S
        while self._counts and (second := next(iter(self._counts))) < first_s:
            self._sum -= self._counts.pop(second)
        return self._sum

    def wait_s(self, now_s: float, excess: int) -> float | None:
        """Seconds until so much has left; None: it is not that much."""
        for second in self._counts:
            excess -= self._counts[second]
            if excess <= 0:
                return second + WINDOW_S + 1 - now_s
        return None

    def add(self, now_s: float, count: int) -> None:
        """Count so much now."""
        self._counts[int(now_s)] = self._counts.get(int(now_s), 0) + count
        self._sum += count

    def correct(self, second: int, count: int) -> None:
        """So much more, or less, was counted in a second, if that is not forgotten yet."""
        if second in self._counts:
            before = self._counts[second]
            self._counts[second] = max(0, before + count)
            self._sum += self._counts[second] - before

    def rate(self, now_s: float, limit: int) -> Rate:
        """What is left of a limit."""
        used = self.sum(now_s)
        newest_s = next(reversed(self._counts), now_s - WINDOW_S - 1)
        reset_s = newest_s + WINDOW_S + 1 - now_s
        return Rate(limit, max(0, limit - used), max(0.0, reset_s) if used else 0.0)
