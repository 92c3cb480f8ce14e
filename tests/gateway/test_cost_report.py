"""The cost report: shares that sum to the whole, and figures worked by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cost_report import (
    BadReport,
    Overhead,
    Window,
    break_even_requests_per_day,
    check_dimensions,
    check_window,
    make_report,
)
from gateway.ledger_store import Sums, WorkerLife
from gateway.ledger_store.rows import DIMENSIONS
from gateway.ledger_store.summing import to_us
from gateway.life_costs import allot, life_costs
from gateway.pricing import span_cost_nano_usd

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
DAY_S = 86_400
USD = 10**9


def life(
    started: datetime,
    uptime_s: float,
    busy_s: float = 0,
    price: int = 24 * USD,
    load_s: float = 0,
    switch_s: float = 0,
) -> WorkerLife:
    """One life of a worker at so many nano-dollars per hour."""
    times_us = (round(one * 1e6) for one in (uptime_s, busy_s, load_s, switch_s))
    return WorkerLife("i", "w", to_us(started), *times_us, price)


COUNTS = st.integers(0, 10**6)
MONEY = st.integers(0, 10**15)
DAYS = st.sampled_from(["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"])
SUMS = st.builds(
    Sums,
    key=st.fixed_dictionaries({"model": st.sampled_from("abc"), "day": DAYS}),
    request_count=COUNTS,
    answered_count=COUNTS,
    prompt_token_count=COUNTS,
    output_token_count=COUNTS,
    busy_us=st.integers(0, 10**11),
    cost_nano_usd=MONEY,
    baselines=st.dictionaries(st.sampled_from(["x", "y"]), MONEY),
)


@st.composite
def lives(draw: st.DrawFn) -> WorkerLife:
    """A life that began within five days, and lasted about as long at most."""
    started = MIDNIGHT - timedelta(seconds=draw(st.integers(0, 5 * DAY_S)))
    parts_us = [draw(st.integers(0, DAY_S * 10**6)) for _ in range(4)]
    price = draw(st.integers(0, 100 * USD))
    return WorkerLife("i", "w", to_us(started), sum(parts_us), *parts_us[:3], price)


@given(st.integers(0, 10**18), st.lists(st.integers(0, 10**12), max_size=30))
def test_parts_sum_to_the_whole_and_are_within_one_of_their_share(
    amount: int, weights: list[int]
) -> None:
    parts = allot(amount, weights)
    if not sum(weights):
        assert parts == [0] * len(weights)
        return
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(amount * weight, sum(weights))) < 1
        assert weight or not part


@given(st.lists(SUMS, max_size=8), st.lists(lives(), max_size=4))
def test_effective_costs_and_what_nobody_bears_are_all_that_was_paid(
    sums: list[Sums], some: list[WorkerLife]
) -> None:
    by_model = [replace(one, key={"model": one.key["model"]}) for one in sums]
    overhead = sum(
        span_cost_nano_usd(one.uptime_us, one.price_nano_usd_per_hour)
        - life_costs(one).busy_nano_usd
        for one in some
    )
    for one in (sums, by_model):
        report = make_report(one, some, Window())
        borne = sum(group.effective_cost_nano_usd for group in report.groups)
        assert report.unallotted_nano_usd >= 0
        assert borne + report.unallotted_nano_usd == report.total.effective_cost_nano_usd
        assert report.total.effective_cost_nano_usd == overhead + sum(
            each.cost_nano_usd for each in one
        )


@given(lives(), st.lists(st.integers(-6 * DAY_S, 6 * DAY_S), min_size=1, max_size=5, unique=True))
def test_adjoining_times_sum_to_the_whole_time(one: WorkerLife, cuts: list[int]) -> None:
    moments = [None, *(to_us(MIDNIGHT) + cut * 10**6 for cut in sorted(cuts)), None]
    windows = [Window(*pair) for pair in pairwise(moments)]
    parts = [make_report([], [one], window).total.overhead_nano_usd for window in windows]
    assert min(parts) >= 0
    assert sum(parts) == make_report([], [one], Window()).total.overhead_nano_usd


@given(st.lists(SUMS, min_size=1, max_size=8), st.lists(lives(), max_size=3))
def test_the_total_is_the_sum_of_the_groups(sums: list[Sums], some: list[WorkerLife]) -> None:
    report = make_report(sums, some, Window())
    for name in ("request_count", "output_token_count", "busy_us", "cost_nano_usd"):
        assert getattr(report.total, name) == sum(getattr(one, name) for one in report.groups)
    for theirs in report.total.baselines:
        parts = [
            one
            for group in report.groups
            for one in group.baselines
            if one.baseline == theirs.baseline
        ]
        assert theirs.cost_nano_usd == sum(one.cost_nano_usd for one in parts)


def test_idle_time_is_allotted_by_busy_time() -> None:
    # A day at 24 USD: 6 h busy for a, 2 h for b, 1 h loading, 2 h switching, 13 h idle; c is a
    # closed API.
    sums = [
        Sums({"model": "a"}, 10, 10, 10**6, 2 * 10**6, 6 * 3600 * 10**6, 6 * USD),
        Sums({"model": "b"}, 10, 10, 10**6, 0, 2 * 3600 * 10**6, 2 * USD),
        Sums({"model": "c"}, 10, 10, 10**6, 10**6, 0, 5 * USD),
    ]
    whole_day = life(MIDNIGHT, DAY_S, 8 * 3600, USD, load_s=3600, switch_s=7200)
    a, b, c = make_report(sums, [whole_day], Window()).groups

    assert a.overhead == Overhead(3 * USD // 4, 3 * USD // 2, 39 * USD // 4)
    assert b.overhead == Overhead(USD // 4, USD // 2, 13 * USD // 4)
    assert c.overhead == Overhead()
    assert a.effective_cost_nano_usd == 18 * USD
    assert a.nano_usd_per_mtok_output == 3 * USD
    assert a.nano_usd_per_mtok == 2 * USD
    assert a.effective_nano_usd_per_mtok_output == 9 * USD
    assert b.nano_usd_per_mtok_output is None
    assert b.nano_usd_per_mtok == 2 * USD


def test_a_day_bears_its_own_idle_time() -> None:
    # Two days at 1 USD an hour; all requests came on the second one.
    sums = [Sums({"day": "2026-03-02"}, 1, 1, busy_us=10**6, cost_nano_usd=1)]
    two_days = life(MIDNIGHT, 2 * DAY_S, 0, USD)
    report = make_report(sums, [two_days], Window())

    assert report.groups[0].overhead_nano_usd == 24 * USD
    assert report.unallotted_nano_usd == 24 * USD
    assert report.total.overhead_nano_usd == 48 * USD


def test_a_saving_counts_failures_and_idle_time() -> None:
    sums = [
        Sums({"model": "a"}, 12, 10, busy_us=9, cost_nano_usd=3 * USD, baselines={"x": 10 * USD})
    ]
    report = make_report(sums, [life(MIDNIGHT, 7200, 3600, USD)], Window())
    (compared,) = report.groups[0].baselines
    assert compared.cost_nano_usd == 10 * USD
    assert compared.saving_nano_usd == 7 * USD
    assert compared.effective_saving_nano_usd == 6 * USD


def test_a_worker_breaks_even_where_the_baseline_charges_its_whole_day() -> None:
    # Half a day of one worker, 24 USD a day; a quarter of the busy time is b's. The baseline would
    # charge 0.01 USD a request: 18 USD a day are 1800 requests of a, 6 USD are 600 of b.
    sums = [
        Sums({"model": "a"}, 100, 100, busy_us=300, cost_nano_usd=1, baselines={"x": USD}),
        Sums({"model": "b"}, 100, 100, busy_us=100, cost_nano_usd=1, baselines={"x": USD}),
    ]
    report = make_report(sums, [life(MIDNIGHT, DAY_S / 2, 100, USD)], Window())
    found = [one.baselines[0].break_even_requests_per_day for one in report.groups]

    assert found == [1800, 600]
    assert report.total.baselines[0].break_even_requests_per_day == 2400


@given(st.integers(1, 10**15), st.integers(1, 10**6), st.integers(1, 10**15))
def test_break_even_is_the_first_count_that_pays(fixed: int, answered: int, theirs: int) -> None:
    count = break_even_requests_per_day(Fraction(fixed), answered, theirs)
    assert (count - 1) * theirs < fixed * answered <= count * theirs


@pytest.mark.parametrize(
    ("sums", "is_never"),
    [
        (Sums({"model": "a"}, 1, 1, busy_us=1, cost_nano_usd=5, baselines={"x": 5}), True),
        (Sums({"model": "a"}, 1, 1, busy_us=1, cost_nano_usd=5, baselines={"x": 6}), False),
        (Sums({"model": "a"}, 1, 0, busy_us=1, cost_nano_usd=5, baselines={"x": 0}), False),
        (Sums({"model": "a"}, 1, 1, busy_us=0, cost_nano_usd=5, baselines={"x": 1}), False),
        (Sums({"day": "2026-03-01"}, 1, 1, busy_us=1, cost_nano_usd=5, baselines={"x": 1}), False),
    ],
)
def test_a_dearer_second_never_breaks_even(sums: Sums, is_never: bool) -> None:
    report = make_report([sums], [life(MIDNIGHT, 3600, 1)], Window())
    compared = report.groups[0].baselines[0]
    assert compared.never_breaks_even is is_never
    is_told = not is_never and sums.answered_count and sums.busy_us and "day" not in sums.key
    assert (compared.break_even_requests_per_day is not None) == bool(is_told)


def test_nothing_happened_costs_nothing() -> None:
    report = make_report([], [], Window())
    assert report.groups == ()
    assert report.total.effective_cost_nano_usd == report.unallotted_nano_usd == 0


def test_what_to_group_by_is_checked() -> None:
    assert check_dimensions([]) == ("model",)
    assert check_dimensions(DIMENSIONS) == DIMENSIONS
    with pytest.raises(BadReport, match="'month' is none of model, task, caller, day"):
        check_dimensions(["model", "month"])
    with pytest.raises(BadReport, match="twice"):
        check_dimensions(["task", "task"])


def test_a_time_must_not_end_before_it_starts() -> None:
    later = MIDNIGHT + timedelta(microseconds=1)
    assert check_window(MIDNIGHT, later) == Window(to_us(MIDNIGHT), to_us(MIDNIGHT) + 1)
    assert check_window(None, None) == Window()
    for end in (MIDNIGHT, MIDNIGHT - timedelta(days=1)):
        with pytest.raises(BadReport, match="not after start_time") as caught:
            check_window(MIDNIGHT, end)
        assert caught.value.field == "end_time"
