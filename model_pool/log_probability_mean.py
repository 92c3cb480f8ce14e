"""How probable an answer was to the model that gave it: over its tokens, however they come."""

from __future__ import annotations

import math


class LogProbabilityMean:
    """The mean of natural logarithms of probabilities; not known where one of them is not."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, log_probability: float | None) -> None:
        """One token's. None: not known."""
        self._sum += math.nan if log_probability is None else log_probability
        self._count += 1

    @property
    def value(self) -> float | None:
        """At most 0; None where there is nothing to tell, or it is not finite."""
        mean = self._sum / self._count if self._count else math.nan
        # Rounding may make a sure token's a little more than 0.
        return min(0.0, mean) if math.isfinite(mean) else None
