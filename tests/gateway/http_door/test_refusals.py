"""Bad input over HTTP: a 4xx that says which field, never a 500."""

from __future__ import annotations

import json

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http_door.fields import ChatAsked, CompletionAsked, EmbeddingsAsked
from gateway.http_door.reading import read_fields, to_chat, to_completion
from model_pool.errors import FleetError
from support.fleet import Fleet, rows
from support.http_door import CHAT, COMPLETIONS, raw_of, user

ONE = {"model": "auto", "messages": user("What is 3 plus 4?")}
BAD_FIELDS = {
    "no model": ({"model": None}, "model"),
    "empty model": ({"model": ""}, "model"),
    "no messages": ({"messages": None}, "messages"),
    "not one message": ({"messages": []}, "messages"),
    "messages as text": ({"messages": "hello"}, "messages"),
    "message as text": ({"messages": ["hello"]}, "messages[0]"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "null content": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "number as content": ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}]},
        "messages[0].content[0].type",
    ),
    "a tool's turn": ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    "a name": ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0].name"),
    "late system": (
        {"messages": [*user("a"), {"role": "system", "content": "b"}]},
        "messages.role",
    ),
    "assistant last": (
        {"messages": [*user("a"), {"role": "assistant", "content": "b"}]},
        "messages.role",
    ),
    "too many messages": ({"messages": user("a") * 257}, "messages"),
    "no length": ({"max_tokens": 0}, "max_tokens"),
    "negative length": ({"max_completion_tokens": -1}, "max_completion_tokens"),
    "absurd length": ({"max_tokens": 10**7}, "max_tokens"),
    "length as text": ({"max_tokens": "5"}, "max_tokens"),
    "length as truth": ({"max_tokens": True}, "max_tokens"),
    "half a token": ({"max_tokens": 1.5}, "max_tokens"),
    "hot": ({"temperature": 2.1}, "temperature"),
    "cold": ({"temperature": -0.1}, "temperature"),
    "top_p": ({"top_p": 0}, "top_p"),
    "seed": ({"seed": -1}, "seed"),
    "large seed": ({"seed": 2**63}, "seed"),
    "two answers": ({"n": 2}, "n"),
    "penalty": ({"presence_penalty": 0.5}, "presence_penalty"),
    "logprobs": ({"logprobs": True}, "logprobs"),
    "bias": ({"logit_bias": {"1": 2}}, "logit_bias"),
    "a tool": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "JSON alone": ({"response_format": {"type": "json_object"}}, "response_format"),
    "kept": ({"store": True}, "store"),
    "reasoning": ({"reasoning_effort": "high"}, "reasoning_effort"),
    "tier": ({"service_tier": "gold"}, "service_tier"),
    "empty stop": ({"stop": ""}, "stop[0]"),
    "many stops": ({"stop": ["x"] * 17}, "stop"),
    "stream options without a stream": ({"stream_options": {"include_usage": True}}, None),
    "unknown field": ({"top_k": 5}, "top_k"),
    "unknown wish": ({"deltafleet": {"speed": 1}}, "deltafleet.speed"),
    "bad wish": ({"deltafleet": {"min_quality": 2}}, "deltafleet.min_quality"),
    "wish of a named model": ({"model": "sql", "deltafleet": {"min_quality": 0.1}}, "constraints"),
}
BAD_BODIES = {
    "nothing": b"",
    "text": b"hello",
    "list": b"[]",
    "null": b"null",
    "cut off": b'{"model": "auto", "mess',
    "more after it": b"{} {}",
    "invalid UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "auto"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "lone surrogate": rb'{"model": "auto", "messages": [{"role": "user", "content": "\ud800"}]}',
    "NaN": b'{"model": "auto", "temperature": NaN}',
    "infinity": b'{"model": "auto", "messages": [], "temperature": 1e999}',
    "huge number": b'{"seed": ' + b"9" * 100_000 + b"}",
    "deep": b'{"a":' * 100_000,
    "deep lists": b"[" * 500_000,
    "raw control character": b'{"model": "a\nb"}',
    "many unknown keys": json.dumps({f"k{n}": 0 for n in range(50_000)}).encode(),
    "many bad messages": b'{"model":"auto","messages":[' + b"0," * 300_000 + b"0]}",
}


@pytest.mark.parametrize("name", sorted(BAD_FIELDS))
async def test_a_bad_field_is_named(client: openai.AsyncOpenAI, name: str) -> None:
    fields, place = BAD_FIELDS[name]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.post(CHAT.removeprefix("/v1"), body={**ONE, **fields}, cast_to=object)

    assert caught.value.type == "invalid_request_error"
    assert (caught.value.param or None) == place
    assert caught.value.body["reason"] in {
        "ERROR_REASON_INVALID_PARAMETER",
        "ERROR_REASON_UNKNOWN_FIELD",
    }


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/embeddings"])
@pytest.mark.parametrize("name", sorted(BAD_BODIES))
async def test_a_bad_body(open_fleet: Fleet, name: str, path: str) -> None:
    async with raw_of(open_fleet) as http:
        answer = await http.post(
            path, content=BAD_BODIES[name], headers={"content-type": "application/json"}
        )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.text) < 1000


async def test_other_failures_have_their_classes(client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        await create(model="gpt-4o", messages=user("a"))
    assert unknown.value.code == "model_not_found"

    with pytest.raises(openai.BadRequestError) as blank:
        await create(model="auto", messages=user(" \n"))
    assert blank.value.code == "empty_prompt"

    with pytest.raises(openai.BadRequestError) as long:
        await create(model="auto", messages=user("word " * 5000))
    assert long.value.code == "context_length_exceeded"
    assert int(long.value.body["metadata"]["prompt_token_count"]) > 4000

    with pytest.raises(openai.UnprocessableEntityError) as dear:
        await create(
            model="auto",
            messages=user("Who wrote Hamlet?"),
            extra_body={"deltafleet": {"min_quality": 1.0}},
        )
    assert dear.value.body["reason"] == "ERROR_REASON_NO_MODEL_QUALIFIES"

    with pytest.raises(openai.APIStatusError) as large:
        await create(model="auto", messages=user("a" * 2**21))
    assert large.value.status_code == 413

    with pytest.raises(openai.BadRequestError) as key:
        await create(
            model="auto", messages=user("a"), extra_headers={"idempotency-key": "with blank"}
        )
    assert key.value.param == "idempotency-key"


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1e3", "inf", "nan", "", "1,5"])
async def test_a_deadline_that_is_none(client: openai.AsyncOpenAI, text: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**ONE, extra_headers={"x-deltafleet-timeout-s": text})
    assert caught.value.param == "x-deltafleet-timeout-s"


async def test_a_deadline_that_passes(open_fleet: Fleet, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(
            **ONE, extra_headers={"x-deltafleet-timeout-s": "0.0001", "x-request-id": "late-1"}
        )
    assert caught.value.status_code == 504
    assert caught.value.body["reason"] == "ERROR_REASON_DEADLINE_EXCEEDED"
    assert ("late-1", "answered") not in rows(open_fleet)


async def test_what_is_no_json_by_its_header(open_fleet: Fleet) -> None:
    async with raw_of(open_fleet) as http:
        # A page of another site can make a browser send this.
        plain = await http.post(
            CHAT, content=json.dumps(ONE), headers={"content-type": "text/plain"}
        )
        packed = await http.post(CHAT, json=ONE, headers={"content-encoding": "gzip"})
        typed = await http.post(
            CHAT,
            content=json.dumps(ONE),
            headers={"content-type": "Application/JSON; charset=utf-8"},
        )
    assert (plain.status_code, packed.status_code, typed.status_code) == (400, 400, 200)


async def test_paths_that_are_none(open_fleet: Fleet) -> None:
    async with raw_of(open_fleet) as http:
        nowhere = await http.post("/v1/responses", json={})
        wrong = await http.get(CHAT)
        slash = await http.post(CHAT + "/", json=ONE)

    assert nowhere.status_code == slash.status_code == 404
    assert nowhere.json()["error"]["code"] == "unknown_url"
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"


async def test_nothing_of_it_was_a_fault_of_ours(
    open_fleet: Fleet, client: openai.AsyncOpenAI
) -> None:
    assert (await client.chat.completions.create(**ONE)).choices[0].message.content
    assert not [line for line in open_fleet.lines if '"level": "error"' in line]


TEXTS = st.sampled_from(["", "a", "user", "text", "auto", "\x00", "\ud800", "größe"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
KEYS = sorted({*ChatAsked.model_fields, *CompletionAsked.model_fields, "role", "content"})
LIKELY = st.dictionaries(
    st.sampled_from(KEYS), JSON | st.lists(st.dictionaries(st.sampled_from(KEYS), JSON), max_size=2)
)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=64) | LIKELY.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_are_a_fault_of_ours(data: bytes) -> None:
    for kind, take in (
        (ChatAsked, to_chat),
        (CompletionAsked, to_completion),
        (EmbeddingsAsked, lambda asked: None),
    ):
        try:
            take(read_fields(kind, data))
        except FleetError as error:
            assert error.message
