"""Feedback through the real door: who may score what, and that it outlives the gateway."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from deltafleet.v1 import routing_pb2
from support.command import run
from support.fleet import DEMO, Fleet, refusal, running_fleet

SQL = "Which products cost more than 20 dollars? Write the SQL query."


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def heard(home: Path) -> AsyncIterator[Fleet]:
    """The demo fleet, keeping feedback."""
    async with running_fleet(home, routing__feedback__path=str(home / "f.sqlite3")) as running:
        yield running


async def score(fleet: Fleet, request_id: str, value: float | None, model: str = "") -> object:
    request = routing_pb2.RecordFeedbackRequest(request_id=request_id, score=value, model=model)
    return await fleet.routing.RecordFeedback(request)


async def quality_of_sql(fleet: Fleet) -> float:
    decision = (await fleet.routing.Route(routing_pb2.RouteRequest(prompt=SQL))).decision
    return next(one.quality for one in decision.candidates if one.model == "sql")


def samples(fleet: Fleet, name: str) -> dict[tuple[str, ...], float]:
    """Values by label values, in the order of the labels' names."""
    with urllib.request.urlopen(f"http://{fleet.metrics}/metrics") as page:
        text = page.read().decode()
    return {
        tuple(one.labels[key] for key in sorted(one.labels)): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == name
    }


async def test_bad_scores_lower_the_expectation_and_better_ones_replace_them(
    heard: Fleet,
) -> None:
    before = await quality_of_sql(heard)
    counted = samples(heard, "deltafleet_feedback_total")
    names = [(await heard.ask(SQL)).summary.request_id for _ in range(3)]
    answers = [await score(heard, name, 0.0, "sql") for name in names]
    lowered = await quality_of_sql(heard)
    again = [await score(heard, name, 1.0) for name in names]

    assert [(one.model, one.replaced) for one in answers] == [("sql", False)] * 3
    assert [(one.model, one.replaced) for one in again] == [("sql", True)] * 3
    assert lowered < before
    assert await quality_of_sql(heard) >= before
    now = samples(heard, "deltafleet_feedback_total")
    for said in ("first", "again"):
        assert now[("sql", said)] - counted.get(("sql", said), 0) == 3
    assert samples(heard, "deltafleet_feedback_score_total")[("sql",)] >= 3


async def test_a_person_scores_an_answer(heard: Fleet) -> None:
    answer = json.loads((await run("ask", "--json", "--server", heard.address, SQL)).output)
    said = ("feedback", "--server", heard.address, answer["request_id"])
    first, second = await run(*said, "0.5"), await run(*said, "1", "--model", "sql")
    wrong = await run(*said, "1", "--model", "triage")

    assert first.output == "sql: 0.5\n"
    assert second.output == "sql: 1, in place of an earlier score\n"
    assert wrong.code == 1
    assert "ERROR_REASON_INVALID_PARAMETER" in wrong.errors
    assert (await run(*said, "2")).code == 2


async def test_decisions_are_counted_by_reason(heard: Fleet) -> None:
    name = "deltafleet_route_decisions_total"
    before = samples(heard, name)
    await quality_of_sql(heard)
    await heard.ask("The sea", model="base", max_output_token_count=1)
    after = samples(heard, name)
    more = {key[1]: value - before.get(key, 0) for key, value in after.items()}
    assert {reason: count for reason, count in more.items() if count} == {
        "classified": 1.0,
        "pinned": 1.0,
    }


async def test_what_is_no_feedback_is_refused(heard: Fleet) -> None:
    known = (await heard.ask(SQL)).summary.request_id
    for request_id, value, model, field in (
        (known, None, "", "score"),
        (known, 1.1, "", "score"),
        (known, float("nan"), "", "score"),
        (known, 1.0, "triage", "model"),
        ("", 1.0, "", "request_id"),
        ("x" * 129, 1.0, "", "request_id"),
    ):
        failure = await refusal(score(heard, request_id, value, model))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.metadata == {"field": field}


async def test_a_request_that_was_not_answered_here_is_not_found(heard: Fleet) -> None:
    decided = ("x-request-id", "only-decided")
    await heard.routing.Route(routing_pb2.RouteRequest(prompt=SQL), metadata=(decided,))
    for name in ("never-heard-of", "only-decided"):
        failure = await refusal(score(heard, name, 1.0))
        assert failure.code is grpc.StatusCode.NOT_FOUND
        assert failure.reason == "ERROR_REASON_UNKNOWN_REQUEST"
        assert failure.metadata == {"request_id": name}


async def test_a_fleet_that_keeps_none_says_so(fleet: Fleet) -> None:
    known = (await fleet.ask(SQL)).summary.request_id
    failure = await refusal(score(fleet, known, 1.0))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "ERROR_REASON_FEEDBACK_OFF"


async def test_feedback_outlives_the_gateway_and_a_share_of_requests_explores(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "f.sqlite3")
    async with running_fleet(tmp_path, routing__feedback__path=path) as fleet:
        known = (await fleet.ask(SQL)).summary.request_id
        await score(fleet, known, 0.0)
        lowered = await quality_of_sql(fleet)
        fleet.process.kill()
        await fleet.process.wait()

    async with running_fleet(
        tmp_path, routing__feedback__path=path, routing__feedback__exploration=0.5
    ) as fleet:
        request = routing_pb2.RouteRequest(prompt=SQL)
        reasons = {}
        for number in [*range(24), *range(24)]:
            name = ("x-request-id", f"request-{number}")
            found = (await fleet.routing.Route(request, metadata=(name,))).decision
            assert reasons.setdefault(number, found.reason) == found.reason
            is_explored = found.reason == routing_pb2.ROUTE_REASON_EXPLORED
            assert (found.model == "base") == is_explored
            assert found.model in ("base", "sql")
        assert set(reasons.values()) == {
            routing_pb2.ROUTE_REASON_CLASSIFIED,
            routing_pb2.ROUTE_REASON_EXPLORED,
        }
        assert (await score(fleet, known, 0.0)).replaced  # known though this gateway is new
        assert await quality_of_sql(fleet) == pytest.approx(lowered)


async def test_a_file_that_is_something_else_refuses_to_start(tmp_path: Path) -> None:
    text = DEMO.read_text()
    for kind in ("path: base", "delta: ", "examples_file: "):
        text = text.replace(kind, kind.replace(": ", f": {DEMO.parent}/"))
    text = text.replace("../../build/demo/ledger.sqlite3", "ledger.sqlite3")
    (tmp_path / "fleet.yaml").write_text(
        text.replace("routing:\n", "routing:\n  feedback: {path: notes.txt}\n")
    )
    (tmp_path / "notes.txt").write_text("These are my notes. " * 100)
    ended = await run(
        *("up", tmp_path / "fleet.yaml", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    )
    assert ended.code == 1
    assert "routing.feedback: cannot read" in ended.errors
    assert (tmp_path / "notes.txt").read_text().startswith("These are my notes.")
