"""Whose weights are live next: bounded waits, few switches, no idling, the same answer always."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool.switching_driver import COST_S, TICK_S, Ask, Engine, backlog

from model_pool.switching import (
    Action,
    Policy,
    Priority,
    Queue,
    Running,
    Waiting,
    decide,
    queue_of,
    slice_of,
    turn_s,
    wait_bound_s,
)

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
