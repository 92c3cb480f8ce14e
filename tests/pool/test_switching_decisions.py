"""Whose weights are live next: single situations, each with the decision that it must get."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from pool.switching_driver import COST_S, TICK_S, Ask, Engine

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
