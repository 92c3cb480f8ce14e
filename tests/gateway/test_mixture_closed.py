"""Closed APIs as members of mixtures: votes, costs, budgets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from grpc import StatusCode

from deltafleet.v1 import routing_pb2
from examples.demo.tasks import TASKS
from gateway.mixture import normalised
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

BILL = INPUT_NANO_USD * PROMPT_TOKEN_COUNT + OUTPUT_NANO_USD * OUTPUT_TOKEN_COUNT
REVIEW = TASKS["sentiment"].generate(random.Random(4711)).prompt
MIXTURES = {
    "panel": {"specialists": ["mini", "sentiment"]},
    "trio": {"specialists": ["mini", "sentiment", "midi"]},
    "poets": {"specialists": ["mini", "translation"], "aggregator": "base"},
    "strangers": {"specialists": ["mini", "midi"]},
}
TOO_DEAR = {"max_output_token_count": 1_000_000}  # at most, dearer than a day's budget


def fleet_file(directory: Path, url: str, budget_usd: str = "1") -> Path:
    """mini and midi are the same server."""
    sections = {"mixtures": MIXTURES}
    settings = {"daily_budget_usd": budget_usd}
    midi = {"base_url": url, "model": "m2", "price": "openai/gpt-5-mini", "daily_budget_usd": "1"}
    sections["closed_apis"] = {"midi": midi | {"max_retries": 0}}
    return with_closed_api(directory, url, sections=sections, **settings)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Fleet, OpenAIServer]]:
    directory = tmp_path_factory.mktemp("mixed")
    async with (
        openai_server() as server,
        running_fleet(directory, fleet_file(directory, server.url)) as fleet,
    ):
        yield fleet, server


@pytest.fixture
def mixed(running: tuple[Fleet, OpenAIServer]) -> tuple[Fleet, OpenAIServer]:
    """Each test begins with a server that answers, and none of its calls."""
    server = running[1]
    server.answer = whole_answer
    server.calls.clear()
    return running


async def test_a_closed_api_has_a_voice_and_all_are_paid(mixed, fleet: Fleet) -> None:
    running, server = mixed
    theirs = await running.stream(REVIEW, model="panel")
    ours = (await fleet.ask(REVIEW, model="sentiment")).text

    assert theirs.text == "".join(TEXTS)
    assert theirs.decision.kind == routing_pb2.MODEL_KIND_MIXTURE
    told = theirs.decision.contributions
    assert [one.model for one in told] == ["mini", "sentiment"]
    assert told[0].cost_nano_usd == BILL
    assert theirs.summary.cost_nano_usd == BILL + told[1].cost_nano_usd
    assert server.calls[0].body["messages"][0]["content"] == REVIEW

    async def agree(call: Call) -> None:
        await call.begin()
        await call.say("Who knows." if call.body["model"] == "m" else ours.upper())
        await call.end()

    server.answer = agree
    voted = await running.stream(REVIEW, model="trio")
    assert normalised(voted.text) == normalised(ours)
    assert voted.summary.worker, "the first who said so"


async def test_an_aggregator_reads_what_a_closed_api_said(mixed, fleet: Fleet) -> None:
    running, _ = mixed
    short = {"max_output_token_count": 8}
    answer = await running.stream(REVIEW, model="poets", **short)
    first, second = answer.decision.contributions
    assert answer.summary.cost_nano_usd > first.cost_nano_usd + second.cost_nano_usd
    assert first.cost_nano_usd == BILL
    assert answer.summary.worker


@pytest.mark.parametrize("model", ["panel", "poets"])
async def test_one_whose_budget_is_spent_is_left_out_and_that_is_said(mixed, model: str) -> None:
    running, server = mixed
    answer = await running.stream(REVIEW, model=model, **TOO_DEAR)

    (told,) = answer.decision.contributions
    assert told.model != "mini"
    assert "mini is not asked: the request may cost" in answer.decision.explanation
    assert answer.text
    assert not server.calls


async def test_where_nobody_is_left_the_request_is_refused(mixed) -> None:
    running, server = mixed
    failure = await refusal(running.ask(REVIEW, model="strangers", **TOO_DEAR))
    assert failure.code is StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "ERROR_REASON_BUDGET_SPENT"
    assert failure.metadata["closed_api"] == "mini"
    assert not server.calls


async def test_one_that_fails_ends_the_mixture(mixed) -> None:
    running, server = mixed

    async def unavailable(call: Call) -> None:
        await call.refuse(503)

    server.answer = unavailable
    failure = await refusal(running.ask(REVIEW, model="panel"))
    assert failure.reason == "ERROR_REASON_CLOSED_API_FAILED"


async def test_many_at_once_spend_at_most_the_budget_and_a_restart_remembers_it(
    tmp_path: Path,
) -> None:
    budget_nano_usd = 1_000_000
    async with openai_server() as server:
        path = fleet_file(tmp_path, server.url, budget_usd=str(budget_nano_usd / 1e9))
        async with running_fleet(tmp_path, path, pool__max_queued_count=512) as running:
            asked = {"model": "panel", "max_output_token_count": 8}
            answers = await asyncio.gather(*(running.ask(REVIEW, **asked) for _ in range(128)))
        spent = BILL * len(server.calls)
        async with running_fleet(tmp_path, path) as running:
            failure = await refusal(running.ask(REVIEW, model="mini", max_output_token_count=8))

    whole = [one for one in answers if len(one.decision.contributions) == 2]
    left_out = [one for one in answers if "mini is not asked" in one.decision.explanation]
    assert len(whole) == len(server.calls) >= 8
    assert len(left_out) == len(answers) - len(whole) >= 8
    assert spent <= budget_nano_usd
    assert failure.reason == "ERROR_REASON_BUDGET_SPENT"


def test_a_name_that_is_nobodys_is_refused(tmp_path: Path) -> None:
    path = with_closed_api(
        tmp_path,
        "https://api.example/v1",
        sections={"mixtures": {"panel": {"specialists": ["mini", "maxi"]}}},
    )
    with pytest.raises(SettingsError, match="maxi"):
        load(Settings, path, environment={})
