"""A share of requests tries another model: by their ids alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.router import Candidate, ModelKind, Route, RouteReason, Target
from gateway.routing.exploration import explored


def candidate(name: str, *, qualifies: bool) -> Candidate:
    return Candidate(Target(name, ModelKind.SPECIALIST, 0.5), 0.1, 0.5, 1, True, qualifies)


def route(*candidates: Candidate) -> Route:
    first = candidates[0].target
    return Route(first, RouteReason.CHEAPEST, "sql", 0.9, "it is the cheapest", candidates)


WIDE = route(*(candidate(name, qualifies=name != "d") for name in "abcd"))


@given(st.text(max_size=40), st.floats(0, 1))
def test_it_is_the_same_for_the_same_request(request_id: str, share: float) -> None:
    found = explored(WIDE, request_id, share)
    assert found == explored(WIDE, request_id, share)
    if found.target != WIDE.target:
        assert found.reason is RouteReason.EXPLORED
        assert found.target.name in "bc"
        assert found.target.name in found.explanation
    else:
        assert found is WIDE


@given(st.text(max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_a_greater_share_only_adds_requests(request_id: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if explored(WIDE, request_id, low) is not WIDE:
        assert explored(WIDE, request_id, high) is not WIDE


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_share_is_the_share_and_all_others_have_a_turn(share: float) -> None:
    found = [explored(WIDE, f"request-{number}", share) for number in range(5000)]
    tried = [one.target.name for one in found if one is not WIDE]
    assert len(tried) == pytest.approx(5000 * share, rel=0.2)
    assert tried.count("b") == pytest.approx(len(tried) / 2, rel=0.3)


@given(st.text(max_size=40))
def test_nothing_is_tried_where_it_is_off_or_nothing_else_would_do(request_id: str) -> None:
    alone = route(candidate("a", qualifies=True), candidate("d", qualifies=False))
    assert explored(WIDE, request_id, 0.0) is WIDE
    assert explored(alone, request_id, 1.0) is alone
    assert explored(WIDE, request_id, 1.0) is not WIDE
