"""What fleet.yaml says of callers holds where their requests do not say."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from deltafleet.v1 import routing_pb2
from gateway.caller import named_caller
from gateway.requests import read_constraints
from gateway.router import Constraints
from support.fleet import DEMO, Fleet, refusal, running_fleet

SQL = "Which products cost more than 20 dollars? Write the SQL query."
FOREIGN = "Who was Napoleon's second wife?"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def demanding(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """The demo fleet with two callers."""
    home = tmp_path_factory.mktemp("callers")
    text = re.sub(
        r"^( *path: | *(?:delta|examples_file): )(?=[a-z])",
        rf"\1{DEMO.parent}/",
        DEMO.read_text(),
        flags=re.MULTILINE,
    )
    callers = "callers:\n  exact: {min_quality: 0.9}\n  thrifty: {max_cost_usd: 0}\n"
    fleet = home / "fleet.yaml"
    fleet.write_text(text + callers)
    async with running_fleet(home, fleet) as running:
        yield running


async def decide(
    fleet: Fleet, prompt: str, caller: str, constraints: routing_pb2.Constraints | None = None
) -> routing_pb2.Decision:
    request = routing_pb2.RouteRequest(prompt=prompt, constraints=constraints)
    answer = await fleet.routing.Route(request, metadata=(("deltafleet-caller", caller),))
    return answer.decision


async def test_a_callers_quality_is_asked_of_every_model(demanding: Fleet) -> None:
    found = await decide(demanding, SQL, "exact")
    assert [one.model for one in found.candidates if one.qualifies] == ["sql"]

    failure = await refusal(decide(demanding, FOREIGN, "exact"))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "ERROR_REASON_NO_MODEL_QUALIFIES"


async def test_the_request_goes_before_its_caller(demanding: Fleet) -> None:
    found = await decide(demanding, FOREIGN, "exact", routing_pb2.Constraints(min_quality=0))
    assert found.model == "base"


async def test_a_callers_money_is_not_exceeded(demanding: Fleet) -> None:
    await demanding.ask(SQL)  # from now on answers are known to cost something
    failure = await refusal(decide(demanding, SQL, "thrifty"))
    assert failure.reason == "ERROR_REASON_NO_MODEL_QUALIFIES"
    free = routing_pb2.Constraints(max_cost_nano_usd=10**9)
    assert (await decide(demanding, SQL, "thrifty", free)).model == "sql"


@pytest.mark.parametrize("caller", ["nobody", "", "EXACT"])
async def test_whom_fleet_yaml_does_not_name_has_the_defaults(
    demanding: Fleet, caller: str
) -> None:
    assert (await decide(demanding, FOREIGN, caller)).model == "base"


def test_a_limit_says_whose_it_is() -> None:
    caller = Constraints(0.5, 70)
    asked = routing_pb2.Constraints
    assert read_constraints(asked(), caller) == Constraints(0.5, 70, quality_is_default=True)
    assert read_constraints(asked(min_quality=0.1), caller) == Constraints(0.1, 70)
    assert read_constraints(asked(max_cost_nano_usd=0), caller) == Constraints(
        0.5, 0, quality_is_default=True
    )
    assert read_constraints(asked(min_quality=1, accepts_less=True), Constraints()) == Constraints(
        1, accepts_less=True
    )


def test_a_caller_that_is_no_text_is_nobody() -> None:
    assert named_caller(None).name == ""
    assert named_caller([("other", "exact"), ("deltafleet-caller", b"exact")]).name == ""
