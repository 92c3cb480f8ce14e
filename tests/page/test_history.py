"""The page's history: nothing counted twice or lost, and never more than an hour."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.page.history import (
    INTERVAL_S,
    KEPT_S,
    LATENCY_WINDOW_S,
    Buckets,
    History,
    Sample,
    WorkerSeconds,
)

BOUNDS = (0.01, 0.1, 1.0, float("inf"))
COUNTS = st.tuples(*[st.integers(0, 50)] * len(BOUNDS))
# What happened between two samples: seconds, requests of two models, nano-dollars.
STEPS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(0, 9), st.integers(0, 9), st.integers(0, 10**15)),
    min_size=1,
    max_size=60,
)


def samples_of(steps: list[tuple[int, int, int, int]]) -> list[Sample]:
    """Cumulative samples; the first before anything happened."""
    sums = list(accumulate(steps, lambda one, two: tuple(map(sum, zip(one, two, strict=True)))))
    made = [Sample(at_s=0, requests={"sql": 0, "base": 0})]
    for at_s, first, second, cost in sums:
        made.append(
            Sample(
                at_s=at_s,
                requests={"sql": first, "base": second},
                cost_nano_usd=cost,
                baselines_nano_usd={"dear": 3 * cost},
            )
        )
    return made


def history_of(samples: list[Sample], **options: float) -> History:
    history = History(**options)
    for sample in samples:
        history.add(sample)
    return history


@given(STEPS)
def test_points_and_bars_add_up_to_what_was_counted(steps: list[tuple[int, int, int, int]]) -> None:
    samples = samples_of(steps)
    history = history_of(samples, kept_s=float("inf"), bar_s=60)
    points, bars = history.points, history.bars
    last = samples[-1]

    assert sum(one.length_s for one in points) == last.at_s
    assert sum(one.cost_nano_usd for one in points) == last.cost_nano_usd
    assert sum(one.baselines_nano_usd["dear"] for one in points) == 3 * last.cost_nano_usd
    for told in (points, bars):
        for model, count in last.requests.items():
            assert sum(one.requests.get(model, 0) for one in told) == count
    assert sum(one.cost_nano_usd for one in bars) == last.cost_nano_usd
    assert all(one.at_s % 60 == 0 for one in bars)
    assert [one.at_s for one in bars] == sorted({one.at_s // 60 * 60 for one in points})


@given(STEPS, st.integers(1, 500))
def test_only_the_last_while_is_kept(steps: list[tuple[int, int, int, int]], kept_s: int) -> None:
    samples = samples_of(steps)
    history = history_of(samples, kept_s=kept_s, bar_s=10)
    points, end = history.points, samples[-1].at_s

    assert [one.at_s for one in points] == [
        one.at_s for one in samples[1:] if one.at_s > end - kept_s
    ]
    assert {one.at_s for one in history.bars} == {
        one.at_s // 10 * 10 for one in samples[1:] if one.at_s // 10 * 10 + 10 > end - kept_s
    }


def test_a_day_of_samples_leaves_an_hour() -> None:
    history = history_of([Sample(at_s=INTERVAL_S * number) for number in range(17_280)])
    assert len(history.points) == KEPT_S / INTERVAL_S


def test_a_clock_that_goes_back_is_waited_for() -> None:
    history = history_of([Sample(at_s=at_s) for at_s in (10.0, 20.0, 15.0, 20.0, 30.0)])
    assert [one.at_s for one in history.points] == [20.0, 30.0]


@given(COUNTS, st.floats(0, 1))
def test_a_quantile_lies_in_its_bucket(counts: tuple[int, ...], share: float) -> None:
    assume(sum(counts))
    value = Buckets(BOUNDS, counts).quantile_s(share)
    observed = [i for i, count in enumerate(counts) for _ in range(count)]
    place = observed[min(len(observed) - 1, max(0, -int(-share * len(observed) // 1) - 1))]

    assert value is not None
    if share > 0:
        lower = BOUNDS[place - 1] if place else 0
        assert lower <= value <= (BOUNDS[place] if place < len(BOUNDS) - 1 else lower)


@given(COUNTS)
def test_quantiles_rise(counts: tuple[int, ...]) -> None:
    assume(sum(counts))
    values = [Buckets(BOUNDS, counts).quantile_s(share) for share in (0.01, 0.5, 0.95, 0.99, 1)]
    assert values == sorted(values)


def test_a_quantile_is_prometheuss() -> None:
    """Worked by hand: of 10, the fifth is the third of the 4 between 0.01 and 0.1."""
    assert Buckets(BOUNDS, (2, 4, 4, 0)).quantile_s(0.5) == pytest.approx(0.01 + 0.09 * 3 / 4)
    assert Buckets(BOUNDS, (0, 0, 0, 0)).quantile_s(0.5) is None
    assert Buckets().quantile_s(0.5) is None
    assert Buckets(BOUNDS, (0, 0, 0, 3)).quantile_s(0.5) == 1.0


def test_latency_is_of_the_last_minute_only() -> None:
    slow, fast = (0, 0, 5, 0), (100, 0, 5, 0)
    history = History()
    for at_s, counts in ((0, (0, 0, 0, 0)), (5, slow), (30, fast), (65, fast), (95, fast)):
        history.add(Sample(at_s=at_s, total=Buckets(BOUNDS, counts)))
    medians = [one.total_s[0] for one in history.points]

    assert medians[0] is not None and medians[0] > 0.1  # only slow ones
    assert medians[1] is not None and medians[1] < 0.01  # mostly fast ones
    assert medians[2] is not None and medians[2] < 0.01
    assert history.points[2].total_s[2] == pytest.approx(0.0099)  # the slow ones are older
    assert medians[3] is None
    assert LATENCY_WINDOW_S == 60


def worker(incarnation: str, busy_s: float, idle_s: float, cost: int) -> WorkerSeconds:
    return WorkerSeconds(
        incarnation, busy_s + idle_s, busy_s, {"busy": cost, "idle": 2 * cost, "load": 1}
    )


def test_a_worker_that_started_anew_costs_from_its_beginning() -> None:
    words = [worker("a", 1, 9, 100), worker("a", 2, 13, 150), worker("b", 1, 1, 20)]
    history = history_of(
        [Sample(at_s=5.0 * at, workers={"w": one}) for at, one in enumerate(words)]
    )

    assert [one.overhead_nano_usd for one in history.points] == [
        {"idle": 100, "load": 0},
        {"idle": 40, "load": 1},
    ]
    assert history.utilisation("w") == 0.5
    assert history.utilisation("nobody") is None


def test_utilisation_is_of_what_was_heard_since() -> None:
    words = [worker("a", 1, 9, 0), worker("a", 4, 10, 0)]
    history = history_of([Sample(at_s=at, workers={"w": one}) for at, one in enumerate(words)])
    assert history.utilisation("w") == 0.75
