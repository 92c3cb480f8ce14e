"""Mixtures: votes and aggregators over real specialists, and what they cost."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deltafleet.v1 import fleet_pb2, inference_pb2, routing_pb2, worker_pb2
from examples.demo.tasks import TASKS
from gateway.answer import AnswerPiece
from gateway.fleet_files import load_examples
from gateway.held_answer import HeldAnswer
from gateway.mixture import DEFAULT_PROMPT, Mixture, aggregating, ask_all, normalised, vote
from gateway.settings import Settings
from model_pool.errors import EngineFailed, WorkerLost
from model_pool.settings import SettingsError
from model_pool.settings_file import load
from support.closed_fleet import with_closed_api
from support.fleet import Fleet, running_fleet

REVIEW = TASKS["sentiment"].generate(random.Random(4711)).prompt
SUM = TASKS["arithmetic"].generate(random.Random(4711)).prompt
POEMS = ("Write a limerick about a fish.", "Write a haiku about rain.", "Write me an ode to tea.")
MIXTURES = {
    "panel": {"specialists": ["triage", "sentiment"], "aggregator": "vote"},
    "trio": {"specialists": ["triage", "sentiment", "sentiment-again"], "aggregator": "vote"},
    "poets": {
        "specialists": ["translation", "entities"],
        "aggregator": "base",
        "description": "Writes poems",
        "examples": list(POEMS),
        "quality": 0.5,
    },
}


def with_mixtures(directory: Path, **changes: object) -> Path:
    """The demo fleet with these mixtures, and a specialist that is there twice."""
    path = with_closed_api(directory, "https://api.example/v1")
    document = yaml.safe_load(path.read_text())
    document["routing"]["fallback"] = "base"
    twin = document["specialists"]["sentiment"] | {"description": "The same again"}
    document["specialists"]["sentiment-again"] = twin
    del document["closed_apis"]
    document["mixtures"] = MIXTURES | {"poets": MIXTURES["poets"] | changes}
    path.write_text(yaml.safe_dump(document))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mixed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    directory = tmp_path_factory.mktemp("mixed")
    async with running_fleet(directory, with_mixtures(directory)) as running:
        yield running


async def test_the_answer_that_most_give_wins_and_all_are_paid(mixed: Fleet) -> None:
    answer = await mixed.stream(REVIEW, model="trio")
    alone = await mixed.ask(REVIEW, model="sentiment")
    other = await mixed.ask(REVIEW, model="triage")

    assert normalised(alone.text) != normalised(other.text), "the vote has something to decide"
    assert answer.text == alone.text
    assert answer.decision.model == "trio"
    assert answer.decision.kind == routing_pb2.MODEL_KIND_MIXTURE
    told = answer.decision.contributions
    assert [one.model for one in told] == ["triage", "sentiment", "sentiment-again"]
    assert all(one.cost_nano_usd > 0 for one in told)
    assert answer.summary.cost_nano_usd == sum(one.cost_nano_usd for one in told)
    assert answer.summary.output_token_count == alone.summary.output_token_count
    query = "select model, cost_nano_usd from requests where request_id = ?"
    ledger = sqlite3.connect(f"file:{mixed.ledger}?mode=ro", uri=True)
    rows = ledger.execute(query, [answer.summary.request_id]).fetchall()
    ledger.close()
    assert rows == [("trio", answer.summary.cost_nano_usd)]


async def test_where_all_differ_the_first_in_the_list_wins(mixed: Fleet) -> None:
    answer = await mixed.ask(REVIEW, model="panel", max_output_token_count=12)
    names = MIXTURES["panel"]["specialists"]
    alone = [await mixed.ask(REVIEW, model=one, max_output_token_count=12) for one in names]
    assert len({normalised(one.text) for one in alone}) == 2
    assert answer.text == alone[0].text


async def test_an_aggregator_reads_the_question_and_all_answers(mixed: Fleet) -> None:
    asked = {"max_output_token_count": 8}
    answer = await mixed.stream(SUM, model="poets", **asked)
    alone = [await mixed.ask(SUM, model=name, **asked) for name in ("translation", "entities")]
    numbered = "\n".join(f"{place}. {one.text}" for place, one in enumerate(alone, 1))
    prompt = DEFAULT_PROMPT.replace("{question}", SUM).replace("{answers}", numbered)
    expected = await mixed.ask(prompt, model="base", **asked)

    assert answer.text == expected.text
    assert answer.summary.prompt_token_count == expected.summary.prompt_token_count
    assert answer.summary.weights_digest == expected.summary.weights_digest
    paid = sum(one.cost_nano_usd for one in answer.decision.contributions)
    assert answer.summary.cost_nano_usd > paid > 0


async def test_prompts_like_its_examples_go_to_it(mixed: Fleet) -> None:
    found = await mixed.routing.Route(
        routing_pb2.RouteRequest(prompt="Write a limerick about a cat.")
    )
    assert found.decision.model == found.decision.task == "poets"
    assert found.decision.reason == routing_pb2.ROUTE_REASON_CLASSIFIED
    model = await mixed.models.GetModel(fleet_pb2.GetModelRequest(model="poets"))
    assert model.model.kind == routing_pb2.MODEL_KIND_MIXTURE
    assert model.model.description == "Writes poems"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"specialists": ["sql"]}, "specialists"),
        ({"specialists": ["sql", "sql"]}, "twice"),
        ({"specialists": ["sql", "nobody"]}, "nobody"),
        ({"specialists": ["sql", "panel"]}, "panel"),
        ({"aggregator": "nobody"}, "nobody"),
        ({"prompt": "{question}"}, "prompt"),
        ({"prompt": "{answers}{question}{question}"}, "prompt"),
        ({"aggregator": "vote", "prompt": "{question}{answers}"}, "vote"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path: Path, changes, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(Settings, with_mixtures(tmp_path, **changes), environment={})


def test_a_mixtures_examples_are_routed_by(tmp_path: Path) -> None:
    examples = load_examples(load(Settings, with_mixtures(tmp_path), environment={}))
    assert examples["poets"] == POEMS
    assert "panel" not in examples


def test_case_spaces_and_closing_marks_make_no_other_answer() -> None:
    assert normalised(' "Yes,  it\nIS." ') == normalised("yes, it is")
    assert normalised("1.5") != normalised("15")


@given(st.lists(st.sampled_from(["a", "A ", "b", "B.", "c"]), min_size=1, max_size=9))
def test_nobody_has_more_voices_than_who_wins(texts: list[str]) -> None:
    place, voices = vote(texts), [normalised(text) for text in texts]
    most = max(map(voices.count, voices))
    assert voices.count(voices[place]) == most
    assert place == min(i for i, voice in enumerate(voices) if voices.count(voice) == most)


def asking(text: str) -> worker_pb2.RunRequest:
    message = routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content=text)
    return worker_pb2.RunRequest(request_id="r", model="m", messages=[message])


@given(question=st.text(min_size=1), answers=st.lists(st.text(), min_size=2, max_size=3))
def test_no_text_is_taken_for_a_part_of_the_template(question: str, answers: list[str]) -> None:
    mixture = Mixture(("a", "b"), "c", "Q {question} A {answers} E")
    request = asking(question)
    found = aggregating(request, mixture, answers)
    numbered = "\n".join(f"{place}. {text}" for place, text in enumerate(answers, 1))
    assert found.messages[-1].content == f"Q {question} A {numbered} E"
    assert (found.model, request.messages[-1].content) == ("c", question)


def piece(text: str, cost: int, finish: int = 0) -> AnswerPiece:
    return AnswerPiece(text, 3, 1, cost, finish)


async def test_all_are_asked_at_once_and_their_costs_add_up() -> None:
    started, may_go = set[str](), asyncio.Event()

    async def ask(request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        started.add(request.model)
        if len(started) == 3:
            may_go.set()
        await may_go.wait()
        yield piece(request.model, 5)
        yield piece("!", 7, inference_pb2.FINISH_REASON_STOP)

    held = {name: HeldAnswer() for name in ("a", "b", "c")}
    costs = [one.cost_nano_usd async for one in ask_all(ask, asking("?"), held)]
    assert [one.text for one in held.values()] == ["a!", "b!", "c!"]
    assert costs[-1] == 21
    assert costs == sorted(costs)


@pytest.mark.parametrize("failure", [EngineFailed("x"), None], ids=["fails", "has no end"])
async def test_one_that_fails_ends_the_others(failure: Exception | None) -> None:
    ended = []

    async def ask(request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        try:
            yield piece("x", 5)
            if request.model == "a":
                if failure:
                    raise failure
                return
            await asyncio.Event().wait()
        finally:
            ended.append(request.model)

    held = {name: HeldAnswer() for name in ("a", "b")}
    with pytest.raises(EngineFailed if failure else WorkerLost):
        async for _ in ask_all(ask, asking("?"), held):
            pass
    assert sorted(ended) == ["a", "b"]


async def test_a_caller_who_leaves_ends_all() -> None:
    ended = []

    async def ask(request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        try:
            yield piece("x", 5)
            await asyncio.Event().wait()
        finally:
            ended.append(request.model)

    asked = ask_all(ask, asking("?"), {name: HeldAnswer() for name in ("a", "b")})
    await anext(asked)
    await asked.aclose()
    assert sorted(ended) == ["a", "b"]
