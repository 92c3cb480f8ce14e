"""Whose seconds an engine's steps were, and what a token of each kind takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model_pool.engine_time import Activity, EngineTime
from model_pool.vllm.meter import Account, BusyMeter, Computed

COUNTS = st.integers(0, 7)
SECONDS = st.floats(0, 9)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> BusyMeter:
    return BusyMeter(EngineTime(clock))


Step = Callable[..., float]


@pytest.fixture
def step(clock: Clock, meter: BusyMeter) -> Step:
    """A step of so many seconds, with what it computed for each; what the first of them paid."""

    def run(seconds: float, computed: dict[Account, Computed]) -> float:
        first = next(iter(computed))
        before_s = first.busy_s
        clock.now_s += seconds
        for account, one in computed.items():
            meter.note(account, one)
        meter.settle()
        return first.busy_s - before_s

    return run


def test_tokens_are_equal_until_both_kinds_are_measured(meter: BusyMeter, step: Step) -> None:
    one, two = Account(), Account()
    meter.enter(one)
    meter.enter(two)
    assert step(4, {one: Computed(2, 1), two: Computed(1, 0)}) == 3
    assert step(2, {two: Computed(0, 1)}) == 2
    assert (one.busy_s, two.busy_s, meter.busy_s) == (3, 3, 6)


def test_a_mixed_step_is_divided_by_what_tokens_take(meter: BusyMeter, step: Step) -> None:
    # A prompt's token takes 1 ms, an answer's 20 ms, alone and beside each other.
    reader, writer = Account(), Account()
    meter.enter(writer)
    step(0.1, {writer: Computed(100, 0)})
    step(0.02, {writer: Computed(0, 1)})
    meter.enter(reader)

    assert step(0.1 + 0.02, {reader: Computed(100, 0), writer: Computed(0, 1)}) == pytest.approx(
        0.1, rel=1e-4
    )


def test_what_prompts_take_is_found_though_none_is_ever_read_alone(
    meter: BusyMeter, step: Step
) -> None:
    writer = Account()
    meter.enter(writer)
    for _ in range(100):
        step(0.02, {writer: Computed(0, 1)})
        reader = Account()
        meter.enter(reader)
        paid_s = step(0.1 + 0.02, {reader: Computed(100, 0), writer: Computed(0, 1)})
        meter.leave(reader, is_finished=True)

    assert paid_s == pytest.approx(0.1, rel=1e-3)
    assert meter.pace.prompt_token_s == pytest.approx(0.001, rel=1e-3)
    assert meter.pace.step_s == pytest.approx(0.02)


def test_a_step_beside_a_prompt_that_is_being_read_measures_no_answer(
    meter: BusyMeter, step: Step
) -> None:
    # A long prompt is read in three steps, of which only the last one shows it.
    writer, reader = Account(), Account()
    meter.enter(writer)
    step(0.1, {writer: Computed(100, 0)})
    step(0.02, {writer: Computed(0, 1)})
    meter.enter(reader)
    for _ in range(50):
        step(0.52, {writer: Computed(0, 1)})

    assert step(0.52, {reader: Computed(500, 0), writer: Computed(0, 1)}) == pytest.approx(
        0.5, rel=1e-4
    )


def test_the_sums_give_both_rates(meter: BusyMeter, step: Step) -> None:
    one, two = Account(), Account()
    meter.enter(one)
    meter.enter(two)
    step(0.5, {one: Computed(30, 0), two: Computed(20, 0)})
    for _ in range(10):
        step(0.1, {one: Computed(0, 1), two: Computed(0, 1)})

    work = meter.work
    assert (work.prefill_s, work.prefill_token_count) == (pytest.approx(0.5, rel=1e-4), 50)
    assert (work.decode_s, work.decode_token_count) == (pytest.approx(1.0, rel=1e-4), 20)


def test_idle_time_is_nobodys(clock: Clock, meter: BusyMeter, step: Step) -> None:
    for _ in range(2):
        account = Account()
        meter.enter(account)
        step(1, {account: Computed(5, 0)})
        meter.leave(account, is_finished=True)
        clock.now_s += 100

    assert meter.busy_s == 2


def test_one_that_is_broken_off_pays_its_part_of_the_step(clock: Clock, meter: BusyMeter) -> None:
    one, two = Account(), Account()
    meter.enter(one)
    meter.enter(two)
    clock.now_s += 4
    meter.leave(one, is_finished=False)
    clock.now_s += 1
    meter.leave(two, is_finished=False)

    assert (one.busy_s, two.busy_s, meter.busy_s) == (2, 3, 5)


class MeterMachine(RuleBasedStateMachine):
    """Requests come, compute, end and are broken off in any order; deltas load and switch between.

    What the clock said while something ran is kept beside it, by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.time = EngineTime(self.clock)
        self.meter = BusyMeter(self.time)
        self.running: list[Account] = []
        self.accounts: list[Account] = []
        self.busy_s = self.switch_s = self.load_s = 0.0
        self.load_count = 0

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.clock.now_s += seconds
        if self.running:
            self.busy_s += seconds
        elif self.load_count:
            self.load_s += seconds

    @rule()
    def a_request_comes(self) -> None:
        self.accounts.append(Account())
        self.running.append(self.accounts[-1])
        self.meter.enter(self.accounts[-1])

    @precondition(lambda self: self.running)
    @rule(place=COUNTS, prompt=COUNTS, answer=COUNTS)
    def tokens_come_out(self, place: int, prompt: int, answer: int) -> None:
        self.meter.note(self.running[place % len(self.running)], Computed(prompt, answer))

    @rule()
    def a_step_ends(self) -> None:
        self.meter.settle()

    @precondition(lambda self: self.running)
    @rule(place=COUNTS, is_finished=st.booleans())
    def a_request_ends(self, place: int, is_finished: bool) -> None:
        self.meter.leave(self.running.pop(place % len(self.running)), is_finished=is_finished)

    @precondition(lambda self: not self.running)
    @rule(seconds=SECONDS)
    def weights_are_switched(self, seconds: float) -> None:
        with self.time.within(Activity.SWITCHING):
            self.clock.now_s += seconds
        self.switch_s += seconds

    @rule()
    def a_load_begins(self) -> None:
        self.time.begin(Activity.LOADING)
        self.load_count += 1

    @precondition(lambda self: self.load_count)
    @rule()
    def a_load_ends(self) -> None:
        self.time.end(Activity.LOADING)
        self.load_count -= 1

    @invariant()
    def every_share_is_somebodys(self) -> None:
        assert sum(one.busy_s for one in self.accounts) == pytest.approx(self.meter.busy_s)
        assert all(one.busy_s >= 0 for one in self.accounts)

    @invariant()
    def every_second_is_one_thing(self) -> None:
        spent = self.time.spent()
        within_us = {"abs": 1e-6 * (1 + len(self.accounts) + self.load_count), "rel": 1e-6}
        assert spent.busy_s == pytest.approx(self.busy_s, **within_us)
        assert spent.switch_s == pytest.approx(self.switch_s, **within_us)
        assert spent.load_s == pytest.approx(self.load_s, **within_us)
        assert spent.busy_s + spent.switch_s + spent.load_s <= spent.elapsed_s + 1e-9

    @invariant()
    def prompts_and_answers_are_not_more_than_all(self) -> None:
        work = self.meter.work
        assert min(work.prefill_s, work.decode_s) >= 0
        assert work.prefill_s + work.decode_s <= self.meter.busy_s * (1 + 1e-9)

    def teardown(self) -> None:
        """Whatever still runs is broken off: then all the busy time has been paid."""
        while self.running:
            self.a_request_ends(0, False)
            self.every_second_is_one_thing()
        assert sum(one.busy_s for one in self.accounts) == pytest.approx(
            self.time.spent().busy_s, abs=1e-9
        )


MeterMachine.TestCase.settings = settings(deadline=None, max_examples=150)
TestMeterMachine = MeterMachine.TestCase
