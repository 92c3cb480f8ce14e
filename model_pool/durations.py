"""How long something took, counted in buckets as Prometheus wants it."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from deltafleet.v1 import worker_pb2

# Seconds, from a delta that lies in the card's memory to a checkpoint that comes from a disk.
CHANGE_BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)


class Durations:
    """Counts per bucket, each above the bound before and not above its own.

    upper_bounds_s: ascending; what is longer than the last is counted too.
    """

    def __init__(self, upper_bounds_s: tuple[float, ...] = CHANGE_BUCKETS_S) -> None:
        if not all(one < other for one, other in pairwise(upper_bounds_s)):
            raise ValueError(f"bounds must ascend: {upper_bounds_s}")
        self._upper_bounds_s = upper_bounds_s
        self._counts = [0] * (len(upper_bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._upper_bounds_s, seconds)] += 1
        self._sum_s += seconds

    def message(self) -> worker_pb2.DurationCounts:
        """All of them up to now."""
        return worker_pb2.DurationCounts(
            upper_bounds_s=self._upper_bounds_s, counts=self._counts, sum_s=self._sum_s
        )
