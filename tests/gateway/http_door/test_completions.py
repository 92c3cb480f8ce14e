"""Answers over HTTP: OpenAI's own client reads them, and they are gRPC's."""

from __future__ import annotations

import random

import openai
import pytest

from deltafleet.v1 import inference_pb2
from examples.demo.tasks import TASKS
from support.fleet import Fleet, rows
from support.http_door import client_of, http_address, user

SUM = "What is 37 plus 45?"
PROMPTS = [TASKS[task].generate(random.Random(7)).prompt for task in sorted(TASKS)]


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_an_answer_and_its_route_are_those_of_grpc(
    open_fleet: Fleet, client: openai.AsyncOpenAI, prompt: str
) -> None:
    theirs = await open_fleet.ask(prompt)
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=user(prompt)
    )
    answer = raw.parse()

    assert answer.choices[0].message.content == theirs.text
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == theirs.decision.model
    assert answer.usage.prompt_tokens == theirs.summary.prompt_token_count
    assert answer.usage.completion_tokens == theirs.summary.output_token_count
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint == theirs.summary.weights_digest
    assert raw.headers["x-deltafleet-model"] == theirs.decision.model
    assert raw.headers["x-deltafleet-task"] == theirs.decision.task
    assert raw.headers["x-deltafleet-route-reason"] == "classified"


async def test_costs_are_told_in_usage_and_headers(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="auto", messages=user(SUM))
    ours = raw.parse().usage.model_extra["deltafleet"]

    assert ours["cost_usd"] > 0
    assert set(ours["baselines"]) == {"gpt-5-mini", "claude-haiku-4-5"}
    saved = min(ours["baselines"].values()) - ours["cost_usd"]
    assert ours["saving_usd"] == pytest.approx(saved, abs=1e-12)
    assert float(raw.headers["x-deltafleet-cost-usd"]) == ours["cost_usd"]
    assert float(raw.headers["x-deltafleet-saving-usd"]) == ours["saving_usd"]
    assert "e" not in raw.headers["x-deltafleet-cost-usd"]


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_a_stream_is_the_same_answer(client: openai.AsyncOpenAI, prompt: str) -> None:
    whole = await client.chat.completions.create(model="auto", messages=user(prompt))
    stream = await client.chat.completions.create(
        model="auto",
        messages=user(prompt),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    *said, last = chunks

    assert said[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in said)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in said[-2:]] == [None, "stop"]
    assert {chunk.model for chunk in chunks} == {whole.model}
    assert len({chunk.id for chunk in chunks}) == 1
    assert not last.choices
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.model_extra["deltafleet"]["cost_usd"] > 0
    assert all(chunk.usage is None for chunk in said)


async def test_a_stream_tells_no_usage_unasked(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=user(SUM), stream=True
    )
    chunks = [chunk async for chunk in raw.parse()]

    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert raw.headers["x-deltafleet-model"] == "arithmetic"
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert "x-deltafleet-cost-usd" not in raw.headers  # not known yet


async def test_plain_completions(open_fleet: Fleet, client: openai.AsyncOpenAI) -> None:
    theirs = await open_fleet.ask(SUM)
    whole = await client.completions.create(model="auto", prompt=SUM)
    listed = await client.completions.create(model="auto", prompt=[SUM])
    stream = await client.completions.create(model="auto", prompt=SUM, stream=True)
    pieces = [chunk.choices[0].text async for chunk in stream]

    assert whole.object == "text_completion"
    assert whole.choices[0].text == listed.choices[0].text == "".join(pieces) == theirs.text
    assert whole.choices[0].finish_reason == "stop"


def test_the_client_that_waits(open_fleet: Fleet) -> None:
    address = http_address(open_fleet)
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="none") as client:
        answer = client.chat.completions.create(model="auto", messages=user(SUM))
        stream = client.chat.completions.create(model="auto", messages=user(SUM), stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert answer.choices[0].message.content == text
    assert text.endswith("82")


async def test_sampling_is_passed_on(open_fleet: Fleet, client: openai.AsyncOpenAI) -> None:
    seed = 1583  # a long answer
    asked = inference_pb2.GenerateRequest(
        prompt="The sea", model="base", temperature=2, seed=seed, max_output_token_count=30
    )
    theirs = await open_fleet.inference.Generate(asked)
    fields = {
        "model": "base",
        "messages": user(asked.prompt),
        "temperature": 2,
        "seed": seed,
    }
    ours = await client.chat.completions.create(max_completion_tokens=30, **fields)
    older = await client.chat.completions.create(max_tokens=30, **fields)

    assert ours.choices[0].message.content == older.choices[0].message.content == theirs.text
    assert ours.choices[0].finish_reason == "length"
    assert ours.usage.completion_tokens == 30

    stop = theirs.text[5:8]
    stopped = await client.chat.completions.create(max_tokens=30, stop=stop, **fields)
    assert stopped.choices[0].message.content == theirs.text[: theirs.text.index(stop)]


async def test_a_conversation_of_parts_and_all_roles(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="arithmetic",
        messages=[
            {"role": "developer", "content": "Answer with a number."},
            {"role": "user", "content": [{"type": "text", "text": "What is 1 plus 1?"}]},
            # As a client that keeps our answers sends them back.
            {"role": "assistant", "content": "2", "refusal": None, "tool_calls": None},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Thank you."},
                    {"type": "text", "text": SUM},
                ],
            },
        ],
    )
    assert answer.model == "arithmetic"
    assert answer.usage.prompt_tokens > 20


async def test_an_answer_can_be_sent_back_as_it_came(client: openai.AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model="auto", messages=user(SUM))
    again = await client.chat.completions.create(
        model="auto", messages=[*user(SUM), first.choices[0].message, *user("What is 3 plus 4?")]
    )
    assert again.model == "arithmetic"


async def test_what_asks_for_nothing_is_taken(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="auto",
        messages=user(SUM),
        n=1,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        logprobs=False,
        response_format={"type": "text"},
        tools=[],
        tool_choice="none",
        parallel_tool_calls=True,
        store=False,
        user="somebody",
        metadata={"a": "b"},
        safety_identifier="x",
        prompt_cache_key="y",
        modalities=["text"],
        service_tier="auto",
        stop=None,
        seed=None,
    )
    assert answer.choices[0].message.content.endswith("82")
    assert answer.service_tier == "default"


async def test_our_own_wishes(client: openai.AsyncOpenAI) -> None:
    wishes = {"min_quality": 0.9, "max_cost_usd": 1.0, "priority": "batch", "explain": True}
    answer = await client.chat.completions.create(
        model="auto", messages=user(SUM), extra_body={"deltafleet": wishes}
    )
    decision = answer.model_extra["deltafleet"]["decision"]

    assert decision["model"] == "arithmetic"
    assert {one["model"] for one in decision["candidates"]} == {"base", *TASKS}
    stream = await client.completions.create(
        model="auto", prompt=SUM, stream=True, extra_body={"deltafleet": {"explain": True}}
    )
    first = await anext(aiter(stream))
    assert first.model_extra["deltafleet"]["decision"]["task"] == "arithmetic"
    await stream.close()


async def test_ids_and_callers_are_the_ledgers(
    open_fleet: Fleet, client: openai.AsyncOpenAI
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=user(SUM), extra_headers={"x-request-id": "theirs-1"}
    )
    assert raw.headers["x-request-id"] == "theirs-1"
    assert raw.parse().id == "chatcmpl-theirs-1"
    keyed = await client.chat.completions.with_raw_response.create(
        model="auto",
        messages=user(SUM),
        extra_headers={"x-request-id": "theirs-2", "idempotency-key": '"key-1"'},
    )
    assert keyed.headers["x-request-id"] == "key-1"
    made = await client.chat.completions.create(model="auto", messages=user(SUM))
    assert [row for row in rows(open_fleet) if row[0] in {"theirs-1", "key-1"}] == [
        ("theirs-1", "answered"),
        ("key-1", "answered"),
    ]
    assert (made._request_id, "answered") in rows(open_fleet)


async def test_a_caller_named_in_a_header_is_charged(open_fleet: Fleet) -> None:
    async with client_of(open_fleet, default_headers={"deltafleet-caller": "nightly"}) as client:
        await client.chat.completions.create(model="auto", messages=user(SUM))
    assert '"caller": "nightly"' in open_fleet.lines[-1]


async def test_a_request_with_a_key_runs_once(
    open_fleet: Fleet, client: openai.AsyncOpenAI
) -> None:
    async def ask(text: str) -> openai.types.chat.ChatCompletion:
        return await client.chat.completions.create(
            model="auto", messages=user(text), extra_headers={"idempotency-key": "once-1"}
        )

    first, again = await ask(SUM), await ask(SUM)
    with pytest.raises(openai.ConflictError) as caught:
        await ask("What is 3 plus 4?")

    assert again.choices[0].message.content == first.choices[0].message.content
    assert "is_repeat" not in first.usage.model_extra["deltafleet"]
    assert again.usage.model_extra["deltafleet"]["is_repeat"]
    assert caught.value.code == "request_id_reused"
    assert [one for one in rows(open_fleet) if one[0] == "once-1"] == [("once-1", "answered")]
