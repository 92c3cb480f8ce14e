"""The forecast of a line: it learns from those that waited, and never locks anybody out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_pool.line_forecast import LineForecast

seconds = st.floats(0, 1000)
counts = st.integers(0, 300)


def learnt(place_s: float, run_s: float) -> LineForecast:
    forecast = LineForecast()
    for ahead_count in range(100):
        forecast.started("line", ahead_count, place_s * (ahead_count + 1))
        forecast.ended("sql", run_s)
    return forecast


@given(st.lists(st.tuples(counts, seconds)), seconds)
def test_who_finds_no_line_is_always_in_time(past: list[tuple[int, float]], run_s: float) -> None:
    forecast = LineForecast()
    for ahead_count, waited_s in past:
        forecast.started("line", ahead_count, waited_s)
        forecast.gave_up("line", ahead_count, waited_s)
        forecast.ended("sql", run_s)

    assert forecast.total_s("line", "sql", 0) == 0


@given(counts, st.floats(0.001, 10), st.floats(0.001, 10))
def test_a_line_that_moves_evenly_is_foretold(
    ahead_count: int, place_s: float, run_s: float
) -> None:
    forecast = learnt(place_s, run_s)

    if ahead_count:
        expected_s = place_s * (ahead_count + 1) + run_s
        assert forecast.total_s("line", "sql", ahead_count) == pytest.approx(expected_s)


def test_a_line_that_became_slow_is_learnt_and_a_quick_one_again() -> None:
    forecast = learnt(0.1, 0.5)
    for _ in range(60):
        forecast.started("line", 9, 10.0)
    slow_s = forecast.total_s("line", "sql", 9)
    for _ in range(60):
        forecast.started("line", 9, 1.0)

    assert slow_s == pytest.approx(10.5, rel=0.01)
    assert forecast.total_s("line", "sql", 9) == pytest.approx(1.5, rel=0.02)


def test_those_that_were_never_reached_only_make_it_slower() -> None:
    forecast = learnt(0.1, 0.5)
    before_s = forecast.total_s("line", "sql", 9)
    forecast.gave_up("line", 9, 0.01)

    assert forecast.total_s("line", "sql", 9) == before_s
    forecast.gave_up("line", 9, 100.0)
    assert forecast.total_s("line", "sql", 9) > before_s


def test_a_line_has_its_own_pace_and_a_model_its_own_answers() -> None:
    forecast = learnt(5.0, 0.5)
    for _ in range(100):
        forecast.started("quick", 0, 1.0)

    assert forecast.total_s("line", "triage", 9) == pytest.approx(50)
    assert forecast.total_s("quick", "sql", 9) == pytest.approx(10.5)


def test_a_line_of_which_nothing_is_known_is_taken_for_a_quick_one() -> None:
    forecast = learnt(5.0, 0.5)
    forecast.took("quick", 1.0)

    assert forecast.total_s("new", "triage", 9) == 10
    assert LineForecast().total_s("new", "triage", 9) == 0
