"""The cascade over real gRPC and HTTP: who answers, what the caller is told, what it costs."""

from __future__ import annotations

import contextlib
import math
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from grpc import StatusCode

from deltafleet.v1 import inference_pb2, routing_pb2
from examples.demo.tasks import TASKS
from gateway.settings import Settings
from model_pool.settings import SettingsError
from model_pool.settings_file import load
from support.closed_fleet import INPUT_NANO_USD, OUTPUT_NANO_USD, with_closed_api
from support.fleet import Fleet, refusal, running_fleet
from support.openai_server import (
    OUTPUT_TOKEN_COUNT,
    PROMPT_TOKEN_COUNT,
    TEXTS,
    Call,
    OpenAIServer,
    openai_server,
    whole_answer,
)

BAR = 0.9
BILL = INPUT_NANO_USD * PROMPT_TOKEN_COUNT + OUTPUT_NANO_USD * OUTPUT_TOKEN_COUNT
ESCALATION = {"to": "mini", "min_confidence": BAR, "specialists": ["sql", "arithmetic"]}
VERIFIED = {"min_confidence": None, "verifier": {"model": "base"}}
PROMPT = TASKS["arithmetic"].generate(random.Random(4711)).prompt
# Tokens drawn at the highest temperature are improbable.
UNSURE = {"temperature": 2, "seed": 5}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cascade(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Fleet, OpenAIServer]]:
    """A fleet whose unsure answers go to a server that a test plays."""
    directory = tmp_path_factory.mktemp("cascade")
    async with openai_server() as server:
        sections = {"routing": {"escalation": ESCALATION}}
        path = with_closed_api(directory, server.url, sections=sections)
        async with running_fleet(directory, path) as running:
            yield running, server


@pytest.fixture(autouse=True)
def played(cascade: tuple[Fleet, OpenAIServer]) -> None:
    """Each test begins with a server that answers, and none of its calls."""
    server = cascade[1]
    server.answer = whole_answer
    server.calls.clear()


def row_of(fleet: Fleet, request_id: str) -> tuple[str, str, str, int]:
    """Model, reason, outcome and cost."""
    with contextlib.closing(sqlite3.connect(f"file:{fleet.ledger}?mode=ro", uri=True)) as ledger:
        columns = "model, reason, outcome, cost_nano_usd"
        query = f"select {columns} from requests where request_id = ?"
        (row,) = ledger.execute(query, [request_id]).fetchall()
    return row


async def test_a_sure_answer_is_the_callers(cascade, fleet: Fleet) -> None:
    escalating, server = cascade
    answer = await escalating.stream(PROMPT)
    plain = await fleet.stream(PROMPT)

    assert answer.text == plain.text
    assert answer.texts == [answer.text], "it was held back, and came at once"
    assert answer.decision.model == "arithmetic"
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_CLASSIFIED
    assert "it is sure of its answer by" in answer.decision.explanation
    assert answer.summary.output_token_count == plain.summary.output_token_count
    assert BAR <= math.exp(answer.summary.mean_logprob) <= 1
    assert not answer.decision.contributions
    assert not server.calls


async def test_an_unsure_answer_gives_way_and_both_are_paid(cascade) -> None:
    escalating, server = cascade
    answer = await escalating.stream(PROMPT, **UNSURE)

    assert answer.texts == list(TEXTS)
    assert answer.decision.model == "mini"
    assert answer.decision.kind == routing_pb2.MODEL_KIND_CLOSED_API
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_ESCALATED
    (first,) = answer.decision.contributions
    assert first.model == "arithmetic"
    assert 0 < first.confidence < BAR
    assert first.cost_nano_usd > 0
    used = answer.summary
    assert used.cost_nano_usd == first.cost_nano_usd + BILL
    assert used.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert not used.HasField("mean_logprob"), "it would be another answer's"
    assert row_of(escalating, used.request_id) == (
        *("mini", "escalated", "answered"),
        used.cost_nano_usd,
    )
    assert len(server.calls) == 1
    assert server.calls[0].body["messages"][0]["content"] == PROMPT


async def test_where_the_other_fails_the_first_answer_has_to_do(cascade, fleet: Fleet) -> None:
    escalating, server = cascade

    async def unavailable(call: Call) -> None:
        await call.refuse(503)

    server.answer = unavailable
    answer = await escalating.stream(PROMPT, **UNSURE)
    plain = await fleet.stream(PROMPT, **UNSURE)

    assert answer.text == plain.text
    assert answer.decision.model == "arithmetic"
    assert "but: mini failed" in answer.decision.explanation
    row = row_of(escalating, answer.summary.request_id)
    assert row[:3] == ("arithmetic", "classified", "answered")
    assert answer.summary.cost_nano_usd < BILL, "what was refused costs nothing"


async def test_what_broke_after_its_first_word_failed_and_both_are_paid(cascade) -> None:
    escalating, server = cascade

    async def half(call: Call) -> None:
        await call.begin()
        await call.say("half")
        await call.drop()

    server.answer = half
    call = escalating.inference.StreamGenerate(
        inference_pb2.GenerateRequest(prompt=PROMPT, **UNSURE),
        metadata=[("x-request-id", "broken")],
    )
    events = []

    async def read() -> None:
        async for event in call:
            events.append(event)

    failure = await refusal(read())
    assert failure.code is StatusCode.UNAVAILABLE
    assert failure.reason == "ERROR_REASON_CLOSED_API_FAILED"
    assert [event.text for event in events[1:]] == ["half"]
    assert events[0].decision.model == "mini"
    model, reason, outcome, cost = row_of(escalating, "broken")
    assert (model, reason, outcome) == ("mini", "escalated", "refused")
    assert cost > events[0].decision.contributions[0].cost_nano_usd + 256 * OUTPUT_NANO_USD


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "arithmetic"},
        {"max_output_token_count": 1_000_000},  # at most, dearer than the day's budget
        {"constraints": {"max_cost_nano_usd": 100_000}},
    ],
    ids=["named", "over budget", "too dear for the caller"],
)
async def test_an_answer_that_cannot_give_way_is_not_weighed(cascade, asked) -> None:
    escalating, server = cascade
    answer = await escalating.stream(PROMPT, **UNSURE, **asked)
    assert answer.decision.model == "arithmetic"
    assert "sure" not in answer.decision.explanation
    assert not server.calls


async def test_other_specialists_are_not_weighed(cascade) -> None:
    escalating, server = cascade
    prompt = TASKS["triage"].generate(random.Random(4711)).prompt
    answer = await escalating.stream(prompt, **UNSURE)
    assert answer.decision.model == "triage"
    assert not server.calls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"to": "arithmetic"}, r"escalation\.to"),
        ({"to": "nobody"}, r"escalation\.to"),
        ({"specialists": ["nobody"]}, "none is called 'nobody'"),
        ({"min_confidence": 1.5}, "min_confidence"),
        ({"min_confidence": None}, "min_confidence or verifier"),
        ({"verifier": {"model": "base"}}, "min_confidence or verifier"),
        (VERIFIED | {"confidence": "curve.json"}, "yes or no"),
        (VERIFIED | {"verifier": {"model": "nobody"}}, r"verifier\.model"),
        (VERIFIED | {"verifier": {"model": "base", "accepts": []}}, "accepts"),
        (VERIFIED | {"verifier": {"model": "base", "accepts": ["."]}}, "accepts"),
        (VERIFIED | {"verifier": {"model": "base", "accepts": [True]}}, "accepts"),
        (VERIFIED | {"verifier": {"model": "base", "prompt": "{question}"}}, "{answer} once"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path: Path, change, message: str) -> None:
    sections = {"routing": {"escalation": ESCALATION | change}}
    path = with_closed_api(tmp_path, "https://api.example/v1", sections=sections)
    with pytest.raises(SettingsError, match=message):
        load(Settings, path, environment={})
