"""Planning where something is broken: a decision never fails a request."""

from __future__ import annotations

import numpy as np
import pytest

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.caller import Call, Caller
from gateway.classifier import Classification, Classifier
from gateway.errors import NoModelQualifies
from gateway.forecast import AnswerForecast, CostForecast
from gateway.metrics import Metrics
from gateway.requests import read_conversation
from gateway.route_planner import Habits, RoutePlanner
from gateway.router import Constraints, ModelKind, Route, Router, RouteReason, Target
from gateway.routing.chats import Hysteresis


class BrokenClassifier:
    """A classifier of which nothing works any more."""

    async def classify(self, prompt: str) -> Classification:
        """Raises RuntimeError."""
        raise RuntimeError("cannot schedule new futures after shutdown")


class ByFirstWord:
    """A classifier whose answers can be foretold."""

    async def classify(self, prompt: str) -> Classification:
        """The first word is the task, in scope where there is one of its name."""
        task = prompt.split()[0]
        is_in_scope = task in ("sums", "tales")
        row = np.array([task == "sums", task != "sums"], np.float32)
        return Classification(task, 0.9 * is_in_scope, is_in_scope, ((task, 0.9),), row=row)


def conversation(*turns: str) -> routing_pb2.RouteRequest:
    user, assistant = routing_pb2.ROLE_USER, routing_pb2.ROLE_ASSISTANT
    messages: list[dict[str, object]] = []
    for turn in turns:
        messages += [{"role": user, "content": turn}, {"role": assistant, "content": "Here."}]
    return routing_pb2.RouteRequest(messages=messages[:-1])


CALL = Call("r", Caller())
TARGETS = {
    "base": Target("base", ModelKind.BASE, 0.3),
    "sql": Target("sql", ModelKind.SPECIALIST, 0.9),
}
WIDE = {
    "base": Target("base", ModelKind.BASE, 0.3),
    "sums": Target("sums", ModelKind.SPECIALIST, 0.9),
    "tales": Target("tales", ModelKind.SPECIALIST, 0.9),
}
ASKED = [
    inference_pb2.GenerateRequest(prompt="Write a query."),
    routing_pb2.RouteRequest(
        messages=[
            {"role": routing_pb2.ROLE_USER, "content": "Write a query."},
            {"role": routing_pb2.ROLE_ASSISTANT, "content": "SELECT 1"},
            {"role": routing_pb2.ROLE_USER, "content": "and shorter?"},
        ]
    ),
]


async def plan(
    request: object,
    call: Call,
    *,
    classifier: Classifier | None = None,
    targets: dict[str, Target] = TARGETS,
) -> Route:
    exploration = 1.0 if targets is WIDE else 0.0
    planner = RoutePlanner(
        classifier or BrokenClassifier(),
        Router(targets, fallback="base", min_quality=0),
        AnswerForecast(CostForecast({}), None, None),
        Habits({"exact": Constraints(0.5)}, Hysteresis(0.05, 0.2), exploration),
        Metrics(),
    )
    return await planner.plan(request, read_conversation(request), call)


@pytest.mark.parametrize("request_", ASKED)
async def test_what_cannot_be_classified_goes_to_the_fallback_and_says_so(request_: object) -> None:
    found = await plan(request_, CALL)
    assert found.target.name == "base"
    assert found.reason is RouteReason.OUT_OF_SCOPE
    assert found.decided_by == "fallback"
    assert found.note == "the prompt could not be classified"
    assert "not known" in found.explanation


async def test_limits_hold_for_it_too() -> None:
    with pytest.raises(NoModelQualifies):
        await plan(ASKED[0], Call("r", Caller("exact")))


async def test_only_the_first_turn_of_a_conversation_explores() -> None:
    first = await plan(conversation("sums please"), CALL, classifier=ByFirstWord(), targets=WIDE)
    later = await plan(
        conversation("sums please", "and shorter?"), CALL, classifier=ByFirstWord(), targets=WIDE
    )
    assert (first.target.name, first.reason) == ("base", RouteReason.EXPLORED)
    assert (later.target.name, later.reason) == ("sums", RouteReason.CLASSIFIED)
    assert "user turn 1 of the 2" in later.explanation


async def test_what_is_remembered_is_the_turn_that_spoke_for_the_task() -> None:
    found = await plan(
        conversation("tales please", "sums please", "and shorter?"),
        CALL,
        classifier=ByFirstWord(),
        targets=WIDE,
    )
    assert found.task == "sums"
    assert found.row is not None
    assert found.row.tolist() == [1, 0]
