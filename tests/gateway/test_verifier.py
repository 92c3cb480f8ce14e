"""The cascade with a verifier: who is asked what, who answers then, and what it costs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from deltafleet.v1 import routing_pb2, worker_pb2
from examples.demo.tasks import TASKS
from gateway.verifier import DEFAULT_PROMPT, LONGEST_TOKEN_COUNT, Verifier
from support.closed_fleet import INPUT_NANO_USD, OUTPUT_NANO_USD, with_closed_api
from support.fleet import Fleet, rows, running_fleet
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
# Sentiment judges the reviews, and then itself: it finds right what is positive.
VERIFIER = {"model": "sentiment", "prompt": "{question} {answer}", "accepts": ["positive"]}
ESCALATION = {"to": "mini", "verifier": VERIFIER, "specialists": ["sentiment"]}


def review(tone: str) -> str:
    """A prompt whose answer this is."""
    draw = random.Random(4711)
    problems = (TASKS["sentiment"].generate(draw) for _ in range(1000))
    return next(problem.prompt for problem in problems if problem.answer == tone)


PRAISE, BLAME = review("positive"), review("negative")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Fleet, OpenAIServer]]:
    directory = tmp_path_factory.mktemp("verified")
    async with openai_server() as server:
        sections = {"routing": {"escalation": ESCALATION}}
        path = with_closed_api(directory, server.url, sections=sections)
        async with running_fleet(directory, path) as fleet:
            yield fleet, server


@pytest.fixture
def verified(running: tuple[Fleet, OpenAIServer]) -> tuple[Fleet, OpenAIServer]:
    """Each test begins with a server that answers, and none of its calls."""
    server = running[1]
    server.answer = whole_answer
    server.calls.clear()
    return running


async def test_an_answer_that_is_found_right_is_the_callers(verified, fleet: Fleet) -> None:
    cascade, server = verified
    answer = await cascade.stream(PRAISE)
    plain = await fleet.stream(PRAISE)

    assert answer.texts == [plain.text]
    assert answer.decision.model == "sentiment"
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_CLASSIFIED
    assert "sentiment finds its answer right" in answer.decision.explanation
    (said,) = answer.decision.contributions
    assert said.model == "sentiment"
    assert answer.summary.cost_nano_usd > said.cost_nano_usd > 0
    assert answer.summary.output_token_count == plain.summary.output_token_count
    assert not answer.summary.HasField("mean_logprob"), "it costs, and nobody asked for it"
    assert not server.calls


async def test_an_answer_that_is_not_found_right_gives_way_and_all_are_paid(verified) -> None:
    cascade, server = verified
    answer = await cascade.stream(BLAME)

    assert answer.texts == list(TEXTS)
    assert answer.decision.model == "mini"
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_ESCALATED
    first, said = answer.decision.contributions
    assert (first.model, said.model) == ("sentiment", "sentiment")
    assert not first.HasField("confidence")
    assert answer.summary.cost_nano_usd == first.cost_nano_usd + said.cost_nano_usd + BILL
    assert rows(cascade)[-1] == (answer.summary.request_id, "answered")
    assert server.calls[0].body["messages"][0]["content"] == BLAME


async def test_where_the_other_fails_the_first_answer_has_to_do_and_its_verifier_is_paid(
    verified, fleet: Fleet
) -> None:
    cascade, server = verified

    async def unavailable(call: Call) -> None:
        await call.refuse(503)

    server.answer = unavailable
    answer = await cascade.stream(BLAME)

    assert answer.text == (await fleet.ask(BLAME)).text
    assert "but: mini failed" in answer.decision.explanation
    (said,) = answer.decision.contributions
    assert answer.summary.cost_nano_usd > said.cost_nano_usd > 0


async def test_where_the_verifier_cannot_say_the_answer_is_the_callers(
    verified, fleet: Fleet
) -> None:
    """The question fills the context, and the answer has no place beside it."""
    cascade, server = verified
    short = await fleet.ask(BLAME)
    prompt = BLAME + " bad" * (511 - short.summary.prompt_token_count)
    answer = await cascade.stream(prompt)
    plain = await fleet.stream(prompt)

    assert answer.text == plain.text
    assert answer.summary.prompt_token_count == 511
    assert "sentiment was to say whether its answer is right, but:" in answer.decision.explanation
    assert answer.decision.model == "sentiment"
    assert not server.calls


def request(text: str) -> worker_pb2.RunRequest:
    turns = [
        routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content=one) for one in ("a", text)
    ]
    return worker_pb2.RunRequest(
        model="sql",
        messages=turns,
        max_output_token_count=500,
        temperature=1.5,
        top_p=0.5,
        seed=7,
        stop=["."],
        wants_logprob=True,
    )


@given(question=st.text(), answer=st.text())
def test_the_verifier_reads_question_and_answer_whatever_they_hold(
    question: str, answer: str
) -> None:
    before, after = DEFAULT_PROMPT.split("{question}")
    asked = Verifier("base").verifying(request(question), answer)
    assert asked.messages[-1].content == before + question + after.replace("{answer}", answer)
    assert asked.messages[0].content == "a"
    assert (asked.model, asked.temperature, asked.top_p) == ("base", 0, 1)
    assert asked.max_output_token_count == LONGEST_TOKEN_COUNT
    assert not (asked.stop or asked.HasField("seed") or asked.wants_logprob)


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ("yes", True),
        (" Yes.", True),
        ("YES, it is.", True),
        ('"Yes"', True),
        ("No doubt!", True),
        ("no", False),
        ("No, yes", False),
        ("yesterday", False),
        ("It is: yes", False),
        ("", False),
        ("...", False),
    ],
)
def test_what_it_says_first_counts(said: str, is_right: bool) -> None:
    assert Verifier("base", accepts=("yes", "no doubt")).finds_right(said) is is_right
