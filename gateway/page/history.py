"""What a gateway counted, sampled every few seconds → the last hour as points and bars. Pure.

A sample is cumulative, as the counters are. Money stays in whole nano-dollars to the end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

INTERVAL_S = 5.0
KEPT_S = 3600.0
BAR_S = 60.0
QUANTILES = (0.5, 0.95, 0.99)
# Of so many seconds before it is each point's latency: of fewer, there are too few requests.
LATENCY_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram. upper_bounds_s: rising, the last one infinite. counts: of each bucket alone."""

    upper_bounds_s: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    def since(self, earlier: Buckets) -> Buckets:
        """What was observed since then."""
        if len(earlier.counts) != len(self.counts):
            return self
        pairs = zip(self.counts, earlier.counts, strict=True)
        return Buckets(self.upper_bounds_s, tuple(max(0, one - other) for one, other in pairs))

    def quantile_s(self, share: float) -> float | None:
        """The value below which that share lies, None where there are no observations.

        Linear within its bucket, as Prometheus's histogram_quantile; in the infinite one it is the
        bound below.
        """
        cumulative = list(accumulate(self.counts))
        if not cumulative or not cumulative[-1]:
            return None
        rank = share * cumulative[-1]
        place = bisect_left(cumulative, rank)
        lower = self.upper_bounds_s[place - 1] if place else 0.0
        if place == len(self.upper_bounds_s) - 1:
            return lower
        before = cumulative[place] - self.counts[place]
        # A rank of 0 falls into the first bucket, which may be empty.
        within = (rank - before) / self.counts[place] if self.counts[place] else 0.0
        return lower + (self.upper_bounds_s[place] - lower) * within


@dataclass(frozen=True, slots=True)
class WorkerSeconds:
    """A worker process so far. cost_nano_usd: by state ("busy", "load", "idle", ...)."""

    incarnation: str
    uptime_s: float
    busy_s: float
    cost_nano_usd: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """All that was counted until at_s, seconds since the epoch.

    requests: by model; failed_count: those of them that were not answered. cost_nano_usd: of the
    requests. workers: the last word of each.
    """

    at_s: float
    requests: Mapping[str, int] = field(default_factory=dict)
    failed_count: int = 0
    output_token_count: int = 0
    cost_nano_usd: int = 0
    baselines_nano_usd: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, WorkerSeconds] = field(default_factory=dict)
    first_token: Buckets = Buckets()
    total: Buckets = Buckets()


@dataclass(frozen=True, slots=True)
class Point:
    """What happened between the sample before and the one at at_s.

    requests: by model, where there were any. overhead_nano_usd: what workers' time cost besides
    computing, by state. first_token_s, total_s: one for each of QUANTILES, over LATENCY_WINDOW_S;
    None where nothing was observed.
    """

    at_s: float
    length_s: float
    requests: Mapping[str, int]
    failed_count: int
    output_token_count: int
    cost_nano_usd: int
    baselines_nano_usd: Mapping[str, int]
    overhead_nano_usd: Mapping[str, int]
    first_token_s: tuple[float | None, ...]
    total_s: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """Points added up. at_s: where it begins; a multiple of its width."""

    at_s: float
    requests: Mapping[str, int] = field(default_factory=dict)
    cost_nano_usd: int = 0
    overhead_nano_usd: Mapping[str, int] = field(default_factory=dict)

    def with_point(self, point: Point) -> Bar:
        """This and what a point tells."""
        return Bar(
            self.at_s,
            _sum(self.requests, point.requests),
            self.cost_nano_usd + point.cost_nano_usd,
            _sum(self.overhead_nano_usd, point.overhead_nano_usd),
        )


class History:
    """The last hour of points and bars, and what is needed to make the next ones.

    A point is in the bar in which it ends.
    """

    def __init__(
        self, *, kept_s: float = KEPT_S, window_s: float = LATENCY_WINDOW_S, bar_s: float = BAR_S
    ) -> None:
        self._kept_s = kept_s
        self._window_s = window_s
        self._bar_s = bar_s
        self._points: deque[Point] = deque()
        self._bars: deque[Bar] = deque()
        self._samples: deque[Sample] = deque()  # of the window; the first is its beginning

    def add(self, sample: Sample) -> None:
        """Take the next sample. One that is not later than the last is left out."""
        samples = self._samples
        if samples and sample.at_s <= samples[-1].at_s:
            return
        samples.append(sample)
        while len(samples) > 2 and samples[1].at_s <= sample.at_s - self._window_s:
            samples.popleft()
        if len(samples) > 1:
            self._keep(to_point(samples[0], samples[-2], sample))

    def _keep(self, point: Point) -> None:
        start_s = point.at_s // self._bar_s * self._bar_s
        is_new = not self._bars or self._bars[-1].at_s != start_s
        bar = Bar(start_s) if is_new else self._bars.pop()
        self._bars.append(bar.with_point(point))
        self._points.append(point)
        first_s = point.at_s - self._kept_s
        while self._points[0].at_s <= first_s:
            self._points.popleft()
        while self._bars[0].at_s + self._bar_s <= first_s:
            self._bars.popleft()

    @property
    def points(self) -> tuple[Point, ...]:
        """By rising time."""
        return tuple(self._points)

    @property
    def bars(self) -> tuple[Bar, ...]:
        """By rising time; where nothing was sampled there is none."""
        return tuple(self._bars)

    def utilisation(self, worker: str) -> float | None:
        """The share of the last minute in which a worker computed, 0 to 1; None: not known."""
        if len(self._samples) < 2:
            return None
        first, last = (self._samples[end].workers.get(worker) for end in (0, -1))
        if last is None:
            return None
        begun = first if first and first.incarnation == last.incarnation else None
        uptime_s = last.uptime_s - (begun.uptime_s if begun else 0.0)
        busy_s = last.busy_s - (begun.busy_s if begun else 0.0)
        return min(1.0, max(0.0, busy_s / uptime_s)) if uptime_s > 0 else None


def to_point(window_start: Sample, before: Sample, now: Sample) -> Point:
    """The time between two samples; window_start: where the latencies' window begins."""
    first_token = now.first_token.since(window_start.first_token)
    total = now.total.since(window_start.total)
    return Point(
        at_s=now.at_s,
        length_s=now.at_s - before.at_s,
        requests={name: n for name, n in _risen(now.requests, before.requests).items() if n},
        failed_count=now.failed_count - before.failed_count,
        output_token_count=now.output_token_count - before.output_token_count,
        cost_nano_usd=now.cost_nano_usd - before.cost_nano_usd,
        baselines_nano_usd=_risen(now.baselines_nano_usd, before.baselines_nano_usd),
        overhead_nano_usd=_overhead(now.workers, before.workers),
        first_token_s=tuple(map(first_token.quantile_s, QUANTILES)),
        total_s=tuple(map(total.quantile_s, QUANTILES)),
    )


def _risen(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: value - before.get(name, 0) for name, value in now.items()}


def _overhead(
    now: Mapping[str, WorkerSeconds], before: Mapping[str, WorkerSeconds]
) -> dict[str, int]:
    costs: Counter[str] = Counter()
    for name, one in now.items():
        earlier = before.get(name)
        known = earlier.cost_nano_usd if earlier and earlier.incarnation == one.incarnation else {}
        for state, cost in one.cost_nano_usd.items():
            if state != "busy":
                costs[state] += max(0, cost - known.get(state, 0))
    return dict(costs)


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    total = Counter(one)
    total.update(other)
    return dict(total)
