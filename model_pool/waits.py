"""Who waits for a first word, and since when: what a fleet is scaled by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self


class Wait:
    """One request's wait for its first word. since_s: by the clock of Waits."""

    def __init__(self, waits: Waits, model: str, since_s: float) -> None:
        self.model = model
        self.since_s = since_s
        self._waits = waits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """It was answered, or it left. A second time is no fault."""
        self._waits.remove(self)


class Waits:
    """Requests without a first word: for a worker that is not up, in its queue, for its weights.

    clock: seconds. May be read from another thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[Wait, None] = {}  # in the order of arrival

    def begin(self, model: str) -> Wait:
        """A wait, which ends with its `with` block at the latest."""
        wait = Wait(self, model, self._clock())
        self._waiting[wait] = None
        return wait

    def remove(self, wait: Wait) -> None:
        """See Wait.end."""
        self._waiting.pop(wait, None)

    def by_model(self) -> dict[str, tuple[int, float]]:
        """Of each model that somebody waits for: how many, and the longest wait so far, seconds."""
        now_s = self._clock()
        found: dict[str, tuple[int, float]] = {}
        for wait in tuple(self._waiting):
            count, longest_s = found.get(wait.model, (0, now_s - wait.since_s))
            found[wait.model] = count + 1, longest_s
        return found
