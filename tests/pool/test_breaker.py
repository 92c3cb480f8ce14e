"""The breaker as such: no worker, no clock but the test's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_pool.breaker import Breaker, BreakerState
from model_pool.settings import Breaker as Section

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN
SECTION = Section(failures=3, pause_s=1, longest_pause_s=5)


class Bench:
    """A breaker, its clock and what it told."""

    def __init__(self, section: Section = SECTION) -> None:
        self.now_s = 100.0
        self.told: list[BreakerState] = []
        self.breaker = Breaker(section, lambda: self.now_s, self.told.append)

    def fail(self, count: int = 1) -> None:
        for _ in range(count):
            self.breaker.fail(self.breaker.begin())

    def wait(self) -> float:
        """Let the pause pass; returns how long it was."""
        pause_s = self.breaker.pause_left_s
        self.now_s += pause_s
        return pause_s


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_failures_in_a_row_open_it_and_others_do_not(bench: Bench) -> None:
    for _ in range(10):
        bench.fail(SECTION.failures - 1)
        bench.breaker.succeed(bench.breaker.begin())
    assert bench.breaker.state is CLOSED and not bench.told

    bench.fail(SECTION.failures)
    assert bench.breaker.state is OPEN and not bench.breaker.allows
    assert bench.breaker.pause_left_s == SECTION.pause_s


def test_what_tells_nothing_of_the_worker_changes_nothing(bench: Bench) -> None:
    bench.fail(SECTION.failures - 1)
    for _ in range(10):
        bench.breaker.drop(bench.breaker.begin())
    assert bench.breaker.state is CLOSED
    bench.fail()
    assert bench.breaker.state is OPEN


def test_one_probe_at_a_time_and_longer_pauses(bench: Bench) -> None:
    bench.fail(SECTION.failures)
    pauses_s = []
    for _ in range(5):
        pauses_s.append(bench.wait())
        assert bench.breaker.allows
        probe = bench.breaker.begin()
        assert bench.breaker.state is HALF_OPEN and not bench.breaker.allows
        bench.breaker.fail(probe)
    assert pauses_s == [1, 2, 4, 5, 5]


def test_a_first_word_closes_it_on_trial_and_a_whole_answer_for_good(bench: Bench) -> None:
    bench.fail(SECTION.failures)
    bench.wait()
    probe = bench.breaker.begin()
    bench.breaker.hear(probe)
    assert bench.breaker.state is CLOSED
    bench.breaker.fail(probe)  # it broke off: one failure is enough
    assert bench.breaker.state is OPEN and bench.wait() == 2

    probe = bench.breaker.begin()
    bench.breaker.hear(probe)
    bench.breaker.succeed(probe)
    bench.fail(SECTION.failures - 1)
    assert bench.breaker.state is CLOSED
    bench.fail()
    assert bench.wait() == SECTION.pause_s


def test_a_probe_whose_caller_left_makes_room_for_another(bench: Bench) -> None:
    bench.fail(SECTION.failures)
    bench.wait()
    bench.breaker.drop(bench.breaker.begin())
    assert bench.breaker.state is OPEN and bench.breaker.allows
    bench.breaker.succeed(bench.breaker.begin())
    assert bench.breaker.state is CLOSED


def test_what_began_before_it_opened_says_nothing_any_more(bench: Bench) -> None:
    old = [bench.breaker.begin() for _ in range(4)]
    bench.fail(SECTION.failures)
    pause_s = bench.breaker.pause_left_s
    bench.breaker.fail(old[0])
    bench.breaker.succeed(old[1])
    assert bench.breaker.state is OPEN and bench.breaker.pause_left_s == pause_s

    bench.wait()
    bench.breaker.begin()
    bench.breaker.succeed(old[2])
    bench.breaker.drop(old[3])
    assert bench.breaker.state is HALF_OPEN


ENDS = ("succeed", "fail", "drop", "hear")


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(("begin", "wait", *ENDS)), st.integers(0, 9)), max_size=80),
)
def test_whatever_happens_its_promises_hold(failures: int, steps: list[tuple[str, int]]) -> None:
    bench = Bench(Section(failures=failures, pause_s=1, longest_pause_s=8))
    breaker, under_way, probe, failed_count = bench.breaker, [], None, 0
    for step, number in steps:
        if step == "wait":
            bench.now_s += number / 2
        elif step == "begin":
            if not breaker.allows:
                continue
            was_open = breaker.state is OPEN
            ticket = breaker.begin()
            under_way.append(ticket)
            if was_open:
                probe = ticket
        elif under_way:
            ticket = under_way[number % len(under_way)]
            before = breaker.state
            getattr(breaker, step)(ticket)
            if step != "hear":
                under_way.remove(ticket)
            failed_count = failed_count + 1 if step == "fail" else failed_count
            if before is HALF_OPEN and breaker.state is not HALF_OPEN:
                assert ticket == probe, "only the probe ends the trial"
        assert 0 <= breaker.pause_left_s <= 8
        assert (breaker.state is HALF_OPEN) <= (probe in under_way)
        assert failed_count >= failures or not bench.told, "nothing opens without failures"
    # It never stays shut: the pause ends, and a probe that answers closes it.
    while under_way:
        breaker.drop(under_way.pop())
    bench.wait()
    assert breaker.allows
    breaker.succeed(breaker.begin())
    assert breaker.state is CLOSED
