"""The simulated engine keeps the books, and the policy keeps its promises on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model_pool.switching import Policy, Priority, decide
from simulations.accelerator import H100_ALONE, TOY
from simulations.alternatives import first_come
from simulations.engine import Record, SimulatedEngine, Switching
from simulations.outcome import Outcome, outcome
from simulations.traffic import TOY_MIX, Request, Traffic

COST_S = 0.02
TIMES = (120.0, 20.0)
POLICY = Policy(max_wait_s=8.0, batch_limit_count=TOY.batch_limit_count)
TRAFFIC = Traffic(model_count=8, request_rate=2.5, duration_s=TIMES[0], mix=TOY_MIX)


def served(
    traffic: Traffic = TRAFFIC, switching: Switching | None = None
) -> tuple[Record, Outcome]:
    switching = switching or Switching(COST_S, decide, POLICY)
    record = SimulatedEngine(TOY, switching).run(traffic.requests(), *TIMES)
    return record, outcome(record, switching.policy, switching.cost_s)


def test_one_request_takes_what_the_model_of_the_engine_says() -> None:
    request = Request("s", 1.0, 1000, 11, Priority.STANDARD, waiting_since_s=1.0)
    SimulatedEngine(H100_ALONE, Switching(COST_S, decide, Policy())).run([request], 10.0, 0.0)

    prefill_s = H100_ALONE.decode_s(0) + 1000 / H100_ALONE.prefill_token_rate
    assert request.admitted_s == pytest.approx(1.0 + COST_S)
    assert request.first_token_s == pytest.approx(request.admitted_s + prefill_s)
    assert request.finished_s == pytest.approx(request.first_token_s + 10 * H100_ALONE.decode_s(1))


@pytest.mark.parametrize("burst", [1.0, 8.0])
def test_traffic_has_its_rate_and_is_the_same_each_time(burst: float) -> None:
    traffic = Traffic(10, 20.0, 2000.0, TOY_MIX, burst=burst)
    requests = traffic.requests()

    assert len(requests) == pytest.approx(20.0 * 2000, rel=0.1)
    assert [one.arrival_s for one in requests] == [one.arrival_s for one in traffic.requests()]
    ranked = [sum(one.model == f"s{rank:02}" for one in requests) for rank in (0, 9)]
    assert ranked[0] > 5 * ranked[1]


def test_every_token_is_computed_once() -> None:
    """All that arrives early ends, after being preempted or not, with the tokens it asked for."""
    short = replace(TRAFFIC, duration_s=60.0)
    switching = Switching(COST_S, decide, POLICY)
    record = SimulatedEngine(TOY, switching).run(short.requests(), 400.0, 0.0)

    assert all(one.finished_s < 400.0 for one in record.requests)
    assert record.switch_count > 50
    assert record.output_token_count == sum(one.output_count for one in record.requests)


def test_two_runs_are_the_same() -> None:
    assert served()[1] == served()[1]


@pytest.mark.parametrize("burst", [1.0, 8.0])
def test_nobody_waits_longer_than_the_bound(burst: float) -> None:
    _, found = served(replace(TRAFFIC, burst=burst, request_rate=6.0))

    assert found.longest_wait_s <= found.bound_s + TOY.decode_s(TOY.batch_limit_count)


def test_twenty_specialists_lose_little_against_one_model() -> None:
    traffic = replace(TRAFFIC, model_count=20, request_rate=4.0)
    together = served(traffic)[1]
    one = served(replace(traffic, model_count=1))[1]

    assert together.token_rate >= 0.7 * one.token_rate
    assert together.queueing_p99_s <= POLICY.max_wait_s


def test_reloading_on_demand_serves_a_tenth_in_time_at_most() -> None:
    reload = Switching(15.0, first_come, POLICY, keeps_cache=False)
    in_place = served()[1]
    by_reload = served(switching=reload)[1]

    assert in_place.goodput >= 10 * by_reload.goodput
