"""Whose weights are live next: bounded waits, few switches, no idling, the same answer always."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_pool.switching import (
    Action,
    Policy,
    Priority,
    Queue,
    Running,
    Slice,
    Waiting,
    decide,
    queue_of,
    rotation_s,
    slice_of,
    turn_s,
    wait_bound_s,
)

TICK_S = 1e-9
COST_S = 0.1


@dataclass(eq=False)
class Ask:
    """One request. left_s: the seconds of being live that it still needs."""

    model: str
    arrival_s: float
    left_s: float
    priority: Priority = Priority.STANDARD
    loss_s: float = 0.0
    since_s: float = math.nan


@dataclass
class Engine:
    """A driver as small as can be: everything that runs gets on at the same speed.

    It checks at each step what must always hold, and remembers every turn.
    """

    policy: Policy
    cost_s: float = COST_S
    now_s: float = 0.0
    live: str | None = None
    live_since_s: float = -math.inf
    peak: float = 0.0
    draining_since_s: float | None = None
    drains: bool = False
    running: list[Ask] = field(default_factory=list)
    waiting: dict[str, list[Ask]] = field(default_factory=lambda: defaultdict(list))
    left_s: dict[str, float] = field(default_factory=dict)
    turns: list[tuple[str, float, float]] = field(default_factory=list)  # model, from, waited
    most_waiting: int = 0

    def queues(self) -> list[Queue]:
        return [
            queue_of(
                model,
                [Waiting(one.since_s, one.priority, one.left_s) for one in asks],
                self.policy,
                switch_cost_s=self.cost_s,
                left_s=self.left_s.get(model, -math.inf),
            )
            for model, asks in self.waiting.items()
            if asks
        ]

    def slice(self) -> Slice:
        now = slice_of(
            self.live,
            [Running(one.loss_s, one.priority) for one in self.running],
            self.policy,
            since_s=self.live_since_s,
            switch_cost_s=self.cost_s if self.live else 0.0,
            peak_weight=self.peak,
            draining_since_s=self.draining_since_s,
        )
        self.peak = now.peak_weight
        return now

    def serve(self, asks: list[Ask], until_s: float = math.inf) -> None:
        coming = sorted(asks, key=lambda one: one.arrival_s, reverse=True)
        while (coming or self.running or any(self.waiting.values())) and self.now_s < until_s:
            while coming and coming[-1].arrival_s <= self.now_s:
                self.put(coming.pop())
            decide_at_s = self.act()
            next_s = min(coming[-1].arrival_s if coming else math.inf, decide_at_s, until_s)
            self.advance(next_s)

    def put(self, ask: Ask) -> None:
        ask.since_s = max(ask.arrival_s, ask.since_s) if ask.since_s == ask.since_s else self.now_s
        self.waiting[ask.model].append(ask)

    def act(self) -> float:
        queues = self.queues()
        rivals = [one.model for one in queues if one.model != self.live]
        self.most_waiting = max(self.most_waiting, len(rivals))
        decision = decide(self.now_s, self.slice(), queues, self.policy)
        if rivals and not self.running:
            assert decision.action is not Action.DRAIN
        if decision.action is Action.SWITCH:
            assert decision.model in rivals, "switches only to a model with work"
            self.switch(decision.model)
            return self.now_s
        if decision.action is Action.STAY:
            self.submit()
        elif self.draining_since_s is None:
            self.draining_since_s = self.now_s
        assert self.running or not queues, "never idle while anything waits"
        assert decision.decide_at_s > self.now_s
        return decision.decide_at_s

    def submit(self) -> None:
        asks = self.waiting[self.live] if self.live else []
        while asks and len(self.running) < self.policy.batch_limit_count:
            self.running.append(asks.pop(0))

    def switch(self, model: str) -> None:
        since_s = next(one.since_s for one in self.queues() if one.model == model)
        for one in self.running:
            one.since_s = self.now_s
            self.waiting[one.model].append(one)
        self.running.clear()
        if self.live:
            self.left_s[self.live] = self.now_s
        self.now_s += self.cost_s
        self.live, self.live_since_s, self.peak = model, self.now_s, 0.0
        self.draining_since_s = None
        self.turns.append((model, self.now_s, self.now_s - since_s))

    def advance(self, next_s: float) -> None:
        ends_s = self.now_s + min([one.left_s for one in self.running], default=math.inf)
        step_s = max(TICK_S, min(next_s, ends_s) - self.now_s)
        assert step_s < math.inf
        self.now_s += step_s
        for one in self.running:
            one.left_s -= step_s
        self.running = [one for one in self.running if one.left_s > TICK_S]


def backlog(models: int, seconds: float) -> list[Ask]:
    return [Ask(f"m{index}", 0.0, seconds) for index in range(models)]


asks = st.builds(
    Ask,
    model=st.sampled_from([f"m{index}" for index in range(6)]),
    arrival_s=st.floats(0, 20),
    left_s=st.floats(0.01, 5),
    priority=st.sampled_from(Priority),
    loss_s=st.sampled_from([0.0, 0.01, 0.5]),
)
policies = st.builds(
    Policy,
    max_wait_s=st.sampled_from([0.0, 1.0, 5.0]),
    amortisation=st.sampled_from([0.5, 1.0, 10.0]),
    thin=st.sampled_from([0.0, 0.5, 1.0]),
    drain_s=st.sampled_from([0.0, 0.5, 3.0]),
    batch_limit_count=st.sampled_from([2, 8]),
)
queues = st.lists(
    st.builds(
        lambda model, requests, cost_s, left_s: (f"m{model}", requests, cost_s, left_s),
        st.integers(0, 9),
        st.lists(
            st.builds(
                Waiting,
                since_s=st.floats(0, 100),
                priority=st.sampled_from(Priority),
                work_s=st.floats(0, 50),
                deadline_s=st.one_of(st.floats(0, 200), st.just(math.inf)),
            ),
            min_size=1,
            max_size=5,
        ),
        st.floats(0.001, 2),
        st.one_of(st.floats(0, 100), st.just(-math.inf)),
    ),
    unique_by=lambda entry: entry[0],
    max_size=6,
)
slices = st.builds(
    lambda model, running, since_s, cost_s: (model, running, since_s, cost_s),
    st.sampled_from([None, "m0", "m1", "m42"]),
    st.lists(
        st.builds(
            Running,
            loss_s=st.floats(0, 1),
            priority=st.sampled_from(Priority),
            preemptible=st.booleans(),
        ),
        max_size=5,
    ),
    st.floats(0, 100),
    st.floats(0, 2),
)


def built(entries: list[tuple[str, list[Waiting], float, float]], policy: Policy) -> list[Queue]:
    return [
        queue_of(model, requests, policy, switch_cost_s=cost_s, left_s=left_s)
        for model, requests, cost_s, left_s in entries
    ]


@given(queues, slices, policies, st.floats(100, 200), st.randoms())
def test_every_situation_has_one_lawful_decision(entries, live, policy, now_s, shuffle) -> None:
    model, running, since_s, cost_s = live
    found = built(entries, policy)
    held = slice_of(
        model,
        running if model else [],
        policy,
        since_s=since_s if model else -math.inf,
        switch_cost_s=cost_s if model else 0.0,
    )
    decision = decide(now_s, held, found, policy)

    rivals = {one.model for one in found if one.model != model}
    has_own = any(one.model == model for one in found)
    if decision.action is Action.STAY:
        assert decision.model == model
        assert held.running_count or has_own or not rivals, "never idle while anything waits"
        assert decision.decide_at_s > now_s
    else:
        assert decision.model in rivals
    if decision.action is Action.DRAIN:
        assert held.running_count
        assert decision.decide_at_s > now_s
    if decision.action is Action.SWITCH and (held.running_count or has_own):
        assert now_s >= held.since_s + policy.amortisation * held.switch_cost_s
        assert not held.pinned_count, "what cannot be preempted is drained"
    shuffle.shuffle(found)
    assert decide(now_s, held, found, policy) == decision


@settings(deadline=None, max_examples=60)
@given(st.lists(asks, min_size=1, max_size=20), policies)
def test_no_model_waits_longer_than_the_bound(requests, policy) -> None:
    """`Engine` checks besides: never idle, no switch without work, time goes on."""
    engine = Engine(policy)
    engine.serve(requests)

    bound_s = wait_bound_s(policy, engine.most_waiting, COST_S)
    assert max(waited_s for _, _, waited_s in engine.turns) <= bound_s + 1e-6
    assert all(one.left_s <= TICK_S for one in requests), "everything ends"


@pytest.mark.parametrize("models", [2, 7, 20])
def test_where_all_wait_all_the_time_max_wait_holds_if_a_rotation_fits(models: int) -> None:
    policy = Policy(max_wait_s=30.0)
    engine = Engine(policy)
    engine.serve(backlog(models, 1e6), until_s=150)

    assert max(waited_s for _, _, waited_s in engine.turns) <= 30.0 + turn_s(COST_S, policy)


@pytest.mark.parametrize("k", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("max_wait_s", [0.0, 20.0])
def test_switching_takes_at_most_one_part_in_one_plus_k(k: float, max_wait_s: float) -> None:
    engine = Engine(Policy(amortisation=k, max_wait_s=max_wait_s))
    engine.serve(backlog(12, 1e6), until_s=100)

    share = len(engine.turns) * COST_S / engine.now_s
    assert share <= 1 / (1 + k) + COST_S / engine.now_s


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 9), st.sampled_from([0.0, 2.0, 8.0]), st.integers(0, 1000))
def test_models_with_full_queues_get_equal_time(models: int, max_wait_s: float, seed: int) -> None:
    draw = random.Random(seed)
    engine = Engine(Policy(max_wait_s=max_wait_s, batch_limit_count=4))
    engine.serve(
        [
            Ask(one.model, draw.random(), one.left_s)
            for one in backlog(models, 1e6)
            for _ in range(5)
        ],
        until_s=60,
    )

    shares = served_s(engine)
    spread = max(shares.values()) - min(shares.values())
    assert spread <= 2 * max(max_wait_s, turn_s(COST_S, engine.policy))


def served_s(engine: Engine) -> dict[str, float]:
    shares: dict[str, float] = defaultdict(float)
    ends = [begin_s - COST_S for _, begin_s, _ in engine.turns[1:]] + [engine.now_s]
    for (model, begin_s, _), end_s in zip(engine.turns, ends, strict=True):
        shares[model] += end_s - begin_s
    return shares


def queue(model: str, *requests: Waiting, policy: Policy | None = None) -> Queue:
    return queue_of(model, requests, policy or Policy(), switch_cost_s=COST_S)


def live(*running: Running, since_s: float = 0.0, **known: float) -> Slice:
    return slice_of("live", running, Policy(), since_s=since_s, switch_cost_s=COST_S, **known)


def test_the_interactive_request_goes_first_of_two_alike() -> None:
    found = [queue("a", Waiting(0.0)), queue("b", Waiting(0.0, Priority.INTERACTIVE))]

    assert decide(0.0, Slice(), found, Policy()).model == "b"


def test_an_interactive_request_is_due_sooner() -> None:
    policy = Policy(max_wait_s=10.0)
    patience_s = 10.0 - rotation_s([queue("b", Waiting(2.0))])
    for priority, share in [(Priority.INTERACTIVE, 8), (Priority.STANDARD, 1), (Priority.BATCH, 1)]:
        decision = decide(3.0, live(Running()), [queue("b", Waiting(2.0, priority))], policy)
        assert decision.action is Action.STAY
        assert decision.decide_at_s == pytest.approx(2.0 + patience_s / share)


def test_a_stream_of_interactive_requests_does_not_starve_batch() -> None:
    policy = Policy(max_wait_s=10.0)
    stream = [Ask(f"m{index % 3}", index * 0.2, 1.0, Priority.INTERACTIVE) for index in range(300)]
    late = Ask("late", 1.0, 0.5, Priority.BATCH)
    engine = Engine(policy)
    engine.serve([*stream, late], until_s=100)

    first_s = next(begin_s for model, begin_s, _ in engine.turns if model == "late")
    assert first_s - 1.0 <= wait_bound_s(policy, engine.most_waiting, COST_S)
    assert late.left_s <= TICK_S


def test_of_due_models_the_earliest_deadline_goes_first() -> None:
    def with_deadline(model: str, deadline_s: float) -> Queue:
        return queue(model, Waiting(9.0, work_s=5.0, deadline_s=deadline_s))

    turn = turn_s(COST_S, Policy())
    found = [with_deadline("a", 16.5 + turn), with_deadline("b", 16.0 + turn)]
    before = decide(10.5, live(Running()), found, Policy())
    then = decide(11.6, live(Running()), found, Policy())

    assert (before.action, before.decide_at_s) == (Action.STAY, pytest.approx(11.0))
    assert (then.action, then.model, then.is_due) == (Action.SWITCH, "b", True)


def test_impossible_deadlines_do_not_go_before_those_that_wait_longer() -> None:
    found = [
        queue("a", Waiting(0.0)),
        queue("b", Waiting(49.0, work_s=100.0, deadline_s=50.0)),
    ]

    assert decide(50.0, live(Running()), found, Policy()).model == "a"


def test_the_fullest_goes_first_while_nothing_is_due() -> None:
    found = [queue("a", Waiting(0.0)), queue("b", Waiting(1.0), Waiting(1.0))]

    assert decide(1.0, Slice(), found, Policy()).model == "b"


def test_a_queue_beyond_the_batch_gains_nothing() -> None:
    policy = Policy(batch_limit_count=4)
    found = [
        queue("a", *[Waiting(1.0)] * 4, policy=policy),
        queue("b", *[Waiting(2.0)] * 400, policy=policy),
    ]

    assert decide(2.0, Slice(), found, policy).model == "a"


def test_a_thinned_batch_gives_way_to_a_fuller_one() -> None:
    found = [queue("a", *[Waiting(4.0)] * 3)]
    full = live(*[Running()] * 5, peak_weight=8.0)
    thin = live(*[Running()] * 3, peak_weight=8.0)

    assert decide(5.0, full, found, Policy()).action is Action.STAY
    assert decide(5.0, thin, found, Policy()).action is Action.SWITCH


def test_a_batch_that_would_be_computed_again_is_drained_first() -> None:
    found = [queue("a", Waiting(0.0))]
    costly = live(Running(loss_s=1.9))
    policy = Policy(drain_s=4.0)
    first = decide(10.0, costly, found, policy)
    last = decide(14.0, replace(costly, draining_since_s=10.0), found, policy)

    assert (first.action, first.model, first.decide_at_s) == (Action.DRAIN, "a", 14.0)
    assert last.action is Action.SWITCH


def test_a_request_that_cannot_be_preempted_is_waited_for() -> None:
    found = [queue("a", Waiting(0.0))]
    decision = decide(1000.0, live(Running(preemptible=False)), found, Policy())

    assert (decision.action, decision.decide_at_s) == (Action.DRAIN, math.inf)


def test_nothing_to_do_is_a_decision_too() -> None:
    decision = decide(5.0, Slice(), [], Policy())

    assert (decision.action, decision.model, decision.decide_at_s) == (Action.STAY, None, math.inf)
