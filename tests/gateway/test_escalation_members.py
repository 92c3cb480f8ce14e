"""The cascade over plain OpenAI-compatible servers, which may not tell how sure they are."""

from __future__ import annotations

import asyncio
import math
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from deltafleet.v1 import routing_pb2
from support.fleet import Fleet, running_fleet
from support.openai_server import Call, OpenAIServer, openai_server

BAR = 0.8
SURE, UNSURE = math.log(0.9), math.log(0.5)
PROMPT = "Which customers"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cascade(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Fleet, OpenAIServer]]:
    """A fleet of nothing but a server that a test plays; its base takes what sql is not sure of."""
    directory = tmp_path_factory.mktemp("cascade")
    async with (
        openai_server("my-sql", "my-base") as server,
        running_fleet(directory, write_fleet(directory, server.url)) as running,
    ):
        yield running, server


def write_fleet(directory: Path, url: str) -> Path:
    specialist = {"description": "d", "delta": "nowhere.delta", "examples": [PROMPT]}
    openai = {"url": url, "models": {"sql": "my-sql", "base": "my-base"}}
    document = {
        "base": {"path": "nowhere"},
        "specialists": {"sql": specialist},
        "pool": {"workers": [{"name": "big", "openai": openai}], "hardware": {"usd_per_hour": 1}},
        "routing": {"escalation": {"to": "base", "min_confidence": BAR}},
    }
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def telling(*log_probabilities: float):
    """Each model says its name; sql also how probable its tokens were."""

    async def answer(call: Call) -> None:
        is_first = call.body["model"] == "my-sql"
        assert ("logprobs" in call.body) is is_first, "it costs: asked only where it is weighed"
        await call.begin()
        await call.tell(call.body["model"], *(log_probabilities if is_first else ()))
        await call.end()

    return answer


async def unweighed(fleet: Fleet) -> float:
    page = await asyncio.to_thread(read, f"http://{fleet.metrics}/metrics")
    name = 'deltafleet_unweighed_answers_total{model="sql"} '
    counts = [line.removeprefix(name) for line in page.splitlines() if line.startswith(name)]
    return float(counts[0])


def read(url: str) -> str:
    with urllib.request.urlopen(url) as page:
        return page.read().decode()


async def test_a_servers_sure_answer_is_the_callers(cascade) -> None:
    fleet, server = cascade
    server.answer = telling(SURE, SURE)
    answer = await fleet.stream(PROMPT)

    assert answer.text == "my-sql"
    assert "it is sure of its answer by 0.90" in answer.decision.explanation
    assert answer.summary.mean_logprob == pytest.approx(SURE)


async def test_a_servers_unsure_answer_gives_way(cascade) -> None:
    fleet, server = cascade
    server.answer = telling(SURE, 3 * UNSURE, UNSURE)
    answer = await fleet.stream(PROMPT)

    assert answer.text == "my-base"
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_ESCALATED
    (first,) = answer.decision.contributions
    assert first.confidence == pytest.approx(math.exp((SURE + 4 * UNSURE) / 3))
    assert answer.summary.cost_nano_usd > first.cost_nano_usd > 0


async def test_an_answer_that_nobody_weighs_is_taken_and_that_is_said(cascade) -> None:
    fleet, server = cascade
    server.calls.clear()
    server.answer = telling()
    before = await unweighed(fleet)
    answers = [await fleet.stream(PROMPT) for _ in range(3)]
    server.answer = telling(SURE)
    await fleet.stream(PROMPT)
    server.answer = telling()
    await fleet.stream(PROMPT)

    for answer in answers:
        assert answer.text == "my-sql"
        assert answer.decision.reason == routing_pb2.ROUTE_REASON_CLASSIFIED
        assert "how sure it is of its answer is not known" in answer.decision.explanation
        assert not answer.summary.HasField("mean_logprob")
    assert {call.body["model"] for call in server.calls} == {"my-sql"}
    assert await unweighed(fleet) == before + 4
    logged = [line for line in fleet.lines if '"event": "answers_not_weighed"' in line]
    assert len(logged) == 2, "once for as long as it lasts"
