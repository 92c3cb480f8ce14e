"""Arrivals are drawn before anything is sent, and every generator draws the same."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from examples.demo.tasks import TASKS
from loadtests.scenario import Stage, Traffic
from loadtests.schedule import arrivals, poisson, question, share_of

stages = st.lists(
    st.builds(Stage, seconds=st.floats(0.1, 20), rate=st.floats(0, 20)), min_size=1, max_size=4
)
traffics = st.lists(stages, min_size=1, max_size=3)
seeds = st.integers(0, 10_000)


@given(traffics, seeds)
def test_arrivals_are_in_order_within_their_time_and_the_same_again(
    traffic: list[list[Stage]], seed: int
) -> None:
    found = arrivals(traffic, seed)

    assert found == arrivals(traffic, seed)
    assert [one.at_s for one in found] == sorted(one.at_s for one in found)
    for one in found:
        assert 0 <= one.at_s < sum(stage.seconds for stage in traffic[one.traffic])


@given(traffics, seeds, st.integers(1, 7))
def test_generators_together_send_everything_once(
    traffic: list[list[Stage]], seed: int, count: int
) -> None:
    whole = arrivals(traffic, seed)
    shares = [share_of(whole, place, count) for place in range(count)]

    assert sorted(one for share in shares for one in share) == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(stages, seeds)
def test_nothing_comes_at_a_rate_of_zero(found: list[Stage], seed: int) -> None:
    silent = [one.model_copy(update={"rate": 0.0}) for one in found]

    assert list(poisson(silent, random.Random(seed))) == []


def test_arrivals_are_poisson() -> None:
    """Counts of seconds have their mean as variance; gaps are exponential, across stages too."""
    rate = 8.0
    halves = [Stage(seconds=2000, rate=rate), Stage(seconds=2000, rate=rate)]
    times = list(poisson(halves, random.Random(5)))
    counts = Counter(int(at_s) for at_s in times)
    mean = len(times) / 4000
    variance = sum((counts[second] - mean) ** 2 for second in range(4000)) / 4000
    gaps = [after - before for before, after in pairwise(times)]

    assert math.isclose(mean, rate, rel_tol=0.03)
    assert math.isclose(variance, rate, rel_tol=0.1)
    assert math.isclose(sum(gap > 1 / rate for gap in gaps) / len(gaps), math.exp(-1), rel_tol=0.03)


def test_two_traffics_do_not_come_together() -> None:
    same = [Stage(seconds=30, rate=5)]
    found = arrivals([same, same], 1)
    first = {one.at_s for one in found if one.traffic == 0}

    assert first.isdisjoint(one.at_s for one in found if one.traffic == 1)


def _traffic(**changes: object) -> Traffic:
    arrival = {"stages": [{"seconds": 1, "rate": 1}]}
    return Traffic.model_validate({"arrivals": arrival} | changes)


@given(seeds, st.integers(0, 10_000))
def test_a_question_is_the_same_again_and_knows_its_answer(seed: int, number: int) -> None:
    asked = question(_traffic(), seed, number)

    assert asked == question(_traffic(), seed, number)
    assert TASKS[asked.task].is_right(asked.problem, asked.problem.answer)


def test_zipf_prefers_the_first_task_by_its_exponent() -> None:
    traffic = _traffic(tasks=["sql", "triage", "sentiment"], skew=1.0)
    counts = Counter(question(traffic, 1, number).task for number in range(3000))

    assert math.isclose(counts["sql"] / counts["triage"], 2, rel_tol=0.15)
    assert math.isclose(counts["sql"] / counts["sentiment"], 3, rel_tol=0.15)


def test_a_named_models_prompt_and_seeds_are_taken_in_turn() -> None:
    traffic = _traffic(model="base", prompt="The sea", seeds=[5, 7])
    asked = [question(traffic, 1, number) for number in range(3)]

    assert [one.seed for one in asked] == [5, 7, 5]
    assert {one.problem.prompt for one in asked} == {"The sea"}


def test_so_many_are_streamed_as_the_traffic_says() -> None:
    traffic = _traffic(streaming_share=0.25)
    share = sum(question(traffic, 1, number).is_streamed for number in range(2000)) / 2000

    assert math.isclose(share, 0.25, abs_tol=0.04)
