"""Whatever the router weighs, only models that a caller may use answer it."""

from __future__ import annotations

import asyncio
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltafleet.v1 import routing_pb2
from gateway.caller import Call, Caller
from gateway.classifier import Classification
from gateway.confidence import PLAIN
from gateway.errors import NoModelQualifies, PermissionDenied
from gateway.escalation import Escalation
from gateway.forecast import AnswerForecast, CostForecast
from gateway.identity.models import AllowedModels
from gateway.metrics import Metrics
from gateway.requests import read_conversation
from gateway.route_planner import Habits, RoutePlanner
from gateway.router import ModelKind, Route, Router, RouteReason, Target
from gateway.routing.chats import Hysteresis
from gateway.verifier import Verifier

KINDS = {
    "base": ModelKind.BASE,
    "sql": ModelKind.SPECIALIST,
    "math": ModelKind.SPECIALIST,
    "elsewhere": ModelKind.CLOSED_API,
    "panel": ModelKind.MIXTURE,
}
QUALITIES = {"base": 0.3, "sql": 0.95, "math": 0.9, "elsewhere": 0.99, "panel": 0.97}
TARGETS = MappingProxyType({name: Target(name, KINDS[name], QUALITIES[name]) for name in KINDS})
PARTS = {"panel": ["sql", "base"]}
METRICS = Metrics()
models = st.sampled_from(sorted(TARGETS))


class Fixed:
    """A classifier that always says the same."""

    def __init__(self, task: str) -> None:
        self._task = task

    async def classify(self, prompt: str) -> Classification:
        """The task; none is out of scope."""
        return Classification(self._task, 0.9 * bool(self._task), bool(self._task), ())


def planned(
    task: str,
    allowed: frozenset[str] | None,
    *,
    fallback: str = "base",
    constraints: routing_pb2.Constraints | None = None,
    exploration: float = 0.0,
    request_id: str = "r",
) -> Route:
    planner = RoutePlanner(
        Fixed(task),
        Router(TARGETS, fallback=fallback, min_quality=0),
        AnswerForecast(CostForecast({}), None, None),
        Habits({}, Hysteresis(), exploration),
        METRICS,
        allowed_models=AllowedModels(PARTS),
    )
    request = routing_pb2.RouteRequest(prompt="p", constraints=constraints)
    call = Call(request_id, Caller(models=allowed))
    return asyncio.run(planner.plan(request, read_conversation(request), call))


@given(
    task=st.sampled_from(["", "sql", "math", "panel"]),
    fallback=models,
    allowed=st.frozensets(models),
    min_quality=st.none() | st.floats(0, 1),
    accepts_less=st.booleans(),
    name=st.text("abcdef", min_size=1, max_size=8),
)
def test_the_router_chooses_what_is_allowed_or_refuses(
    task: str,
    fallback: str,
    allowed: frozenset[str],
    min_quality: float | None,
    accepts_less: bool,
    name: str,
) -> None:
    constraints = routing_pb2.Constraints(min_quality=min_quality, accepts_less=accepts_less)
    try:
        found = planned(
            task,
            allowed,
            fallback=fallback,
            constraints=constraints,
            exploration=1.0,
            request_id=name,
        )
    except PermissionDenied as error:
        assert error.metadata["model"] not in allowed
    except NoModelQualifies:
        assert min_quality, "without a wish the only obstacle is what is not allowed"
    else:
        assert found.target.name in allowed
        assert found.target.name != "panel" or {"sql", "base"} <= allowed
        assert found.allowed == allowed


@pytest.mark.parametrize(
    ("allowed", "model", "reason"),
    [
        (None, "math", RouteReason.CLASSIFIED),
        ({"math"}, "math", RouteReason.CLASSIFIED),
        ({"base", "sql"}, "base", RouteReason.CONSTRAINED),
        ({"elsewhere"}, "elsewhere", RouteReason.CONSTRAINED),
    ],
)
def test_the_next_best_that_is_allowed_answers(
    allowed: set[str] | None, model: str, reason: RouteReason
) -> None:
    found = planned("math", None if allowed is None else frozenset(allowed))
    assert (found.target.name, found.reason) == (model, reason)


def test_a_cascade_asks_only_whom_the_caller_may_use() -> None:
    cascade = Escalation(TARGETS["elsewhere"], 0.5, {"math": PLAIN}, Verifier("sql", "", ()))

    def covers(*allowed: str) -> bool:
        return cascade.covers(planned("math", frozenset(allowed)))

    assert cascade.covers(planned("math", None))
    assert covers("math", "elsewhere", "sql")
    assert not covers("math", "elsewhere"), "the verifier reads the prompt"
    assert not covers("math", "sql"), "the other model would answer"
