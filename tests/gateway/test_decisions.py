"""Routing and pricing: pure, so tested as such."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltafleet.v1 import routing_pb2
from gateway.classifier import Classification
from gateway.decisions import REASONS, to_decision
from gateway.errors import NoModelQualifies
from gateway.forecast import CostForecast
from gateway.pricing import TextSize, TokenPrice, baseline_costs_nano_usd, time_cost_nano_usd
from gateway.router import (
    Constraints,
    Expectations,
    ModelKind,
    Route,
    Router,
    RouteReason,
    Target,
)
from model_pool.errors import UnknownModel

TARGETS = {
    "base": Target("base", ModelKind.BASE, 0.3),
    "sql": Target("sql", ModelKind.SPECIALIST, 0.95),
    "math": Target("math", ModelKind.SPECIALIST, 0.9),
    "closed-api": Target("closed-api", ModelKind.CLOSED_API, 0.99),
}
FREE = Constraints()
COSTS = {"base": 10, "sql": 12, "math": 11, "closed-api": 1000}


def route(
    task: str = "sql",
    similarity: float = 0.8,
    constraints: Constraints = FREE,
    *,
    weighs_all: bool = True,
) -> Route:
    router = Router(TARGETS, fallback="base", min_quality=0)
    scores = {"sql": 0.1, "math": 0.1} | {task: similarity}
    ranked = tuple(sorted(scores.items(), key=lambda score: -score[1]))
    return router.route(
        Classification(task, similarity, similarity >= 0.5, ranked),
        constraints,
        Expectations(lambda target: COSTS[target.name]),
        weighs_all=weighs_all,
    )


def test_a_prompt_in_scope_goes_to_its_specialist() -> None:
    assert route().target.name == "sql"
    assert route().reason is RouteReason.CLASSIFIED


def test_a_prompt_out_of_scope_goes_to_the_fallback() -> None:
    found = route(similarity=0.2)
    assert (found.target.name, found.reason, found.task) == ("base", RouteReason.OUT_OF_SCOPE, "")


def test_a_quality_above_the_specialists_goes_to_the_cheapest_that_has_it() -> None:
    found = route(constraints=Constraints(min_quality=0.97))
    assert (found.target.name, found.reason) == ("closed-api", RouteReason.CONSTRAINED)


def test_another_tasks_specialist_is_never_the_way_to_save() -> None:
    found = route(constraints=Constraints(max_cost_nano_usd=11))
    assert found.target.name == "base"


def test_what_nothing_meets_is_refused_with_the_best_there_is() -> None:
    with pytest.raises(NoModelQualifies, match=r"0\.99"):
        route(constraints=Constraints(min_quality=1.0))


def test_a_route_says_who_decided_and_what_was_wrong() -> None:
    told = Classification(
        "sql", 0.8, True, (("sql", 0.8),), decided_by="static", note="the encoder took too long"
    )
    found = Router(TARGETS, fallback="base", min_quality=0).route(
        told, FREE, Expectations(lambda _: 0)
    )

    decision = to_decision(found, explain=False)
    assert (decision.decided_by, decision.note) == ("static", "the encoder took too long")
    assert not decision.candidates
    assert len(to_decision(found, explain=True).candidates) == len(TARGETS)


def test_every_reason_has_a_word_on_the_wire() -> None:
    assert set(REASONS) == set(RouteReason)
    words = set(routing_pb2.RouteReason.values()) - {routing_pb2.ROUTE_REASON_UNSPECIFIED}
    assert set(REASONS.values()) == words


def test_candidates_say_whether_they_qualify() -> None:
    found = route(constraints=Constraints(max_cost_nano_usd=11))
    qualify = {one.target.name for one in found.candidates if one.qualifies}
    assert qualify == {"base"}


@given(
    st.sampled_from(("sql", "math")),
    st.floats(0, 1),
    st.none() | st.floats(0, 0.99),
    st.none() | st.integers(10, 1000),
    st.booleans(),
)
def test_a_route_is_the_same_where_nobody_asks_how_others_were_weighed(
    task: str, similarity: float, quality: float | None, cost: int | None, accepts_less: bool
) -> None:
    asked = Constraints(quality, cost, accepts_less=accepts_less)
    try:
        whole = route(task, similarity, asked)
    except NoModelQualifies:
        with pytest.raises(NoModelQualifies):
            route(task, similarity, asked, weighs_all=False)
        return

    found = route(task, similarity, asked, weighs_all=False)
    is_own = found.reason is RouteReason.CLASSIFIED
    assert found == replace(whole, candidates=() if is_own else whole.candidates)


def test_a_pinned_model_must_exist() -> None:
    router = Router(TARGETS, fallback="base", min_quality=0)
    assert router.pinned("math").reason is RouteReason.PINNED
    with pytest.raises(UnknownModel, match="poetry"):
        router.pinned("poetry")


@given(
    task=st.sampled_from(["sql", "math"]),
    similarity=st.floats(-1, 1),
    quality=st.none() | st.floats(0, 1),
    cost=st.none() | st.integers(0, 2000),
)
def test_routing_is_total(
    task: str, similarity: float, quality: float | None, cost: int | None
) -> None:
    constraints = Constraints(quality, cost)
    try:
        found = route(task, similarity, constraints)
    except NoModelQualifies:
        return
    assert quality is None or found.target.quality >= quality
    assert cost is None or COSTS[found.target.name] <= cost
    assert found.target.kind is not ModelKind.SPECIALIST or found.target.name == task
    assert len(found.candidates) == len(TARGETS)


def test_baselines_charge_their_own_tokens_rounded_up() -> None:
    price = TokenPrice(Decimal("0.25"), Decimal(2), Decimal(4))
    assert baseline_costs_nano_usd({"b": price}, TextSize(9), TextSize(4)) == {
        "b": 3 * 250 + 1 * 2000
    }


def test_an_hour_of_a_worker_costs_its_price() -> None:
    assert time_cost_nano_usd(3600.0, 50_000_000) == 50_000_000


@given(st.lists(st.floats(0, 3600), max_size=50), st.integers(0, 10**11))
def test_parts_of_time_cost_what_the_whole_costs(parts: list[float], price: int) -> None:
    whole = time_cost_nano_usd(sum(parts), price)
    assert abs(sum(time_cost_nano_usd(part, price) for part in parts) - whole) <= len(parts) + 1


def test_a_forecast_learns_and_knows_list_prices() -> None:
    forecast = CostForecast({"closed-api": TokenPrice(Decimal(1), Decimal(5))})
    assert forecast.expected_nano_usd("sql", 40, 0) == 0
    assert forecast.expected_nano_usd("sql", 40, 0, 300) == 300
    forecast.learn("sql", 500)
    assert forecast.expected_nano_usd("sql", 40, 0, 300) == 500
    assert forecast.expected_nano_usd("math", 40, 0, 300) == 300
    assert forecast.expected_nano_usd("closed-api", 40, 100, 300) == 10 * 1000 + 100 * 5000
    assert forecast.expected_nano_usd("sql", 40, 0) == 500
    assert forecast.expected_nano_usd("math", 40, 0) == 500
    assert forecast.expected_nano_usd("closed-api", 40, 100) == 10 * 1000 + 100 * 5000
