"""Streams over HTTP: when they begin, how they end, and who stops them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import closing

import openai
import pytest
import pytest_asyncio

from deltafleet.v1 import inference_pb2
from gateway.http_door.batches import LARGEST_COUNT, batched
from support.fleet import LONG_TOKEN_COUNT, Fleet, rows, running_fleet, until
from support.http_door import CHAT, client_of, events_of, http_address, raw_of, user


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def frail(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A fleet that may be harmed. Its worker runs one request and lets one wait."""
    limits = {"pool__max_running_count": 1, "pool__max_queued_count": 1, "pool__worker_wait_s": 110}
    directory = tmp_path_factory.mktemp("frail-http")
    async with running_fleet(directory, server__http="127.0.0.1:0", **limits) as running:
        yield running


def long_fields(request: inference_pb2.GenerateRequest, name: str) -> dict[str, object]:
    """The long request, as OpenAI's client sends it."""
    return {
        "model": request.model,
        "messages": user(request.prompt),
        "temperature": request.temperature,
        "seed": request.seed,
        "max_tokens": request.max_output_token_count,
        "extra_headers": {"x-request-id": name},
    }


async def until_recorded(fleet: Fleet, name: str) -> str:
    """How a request ended."""

    async def is_there() -> bool:
        return name in dict(rows(fleet))

    await until(is_there)
    return dict(rows(fleet))[name]


def token_count(fleet: Fleet, name: str) -> int:
    with closing(sqlite3.connect(fleet.ledger)) as ledger:
        return ledger.execute(
            "select output_token_count from requests where request_id = ?", (name,)
        ).fetchone()[0]


async def test_the_events_of_a_stream(open_fleet: Fleet) -> None:
    body = {
        "model": "auto",
        "messages": user("What is 37 plus 45?"),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with raw_of(open_fleet) as http:
        answer = await http.post(CHAT, json=body)
    *chunks, done = events_of(answer.text)
    read = [json.loads(chunk) for chunk in chunks]

    assert done == "[DONE]"
    assert answer.headers["cache-control"] == "no-cache"
    assert read[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert read[-2]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert read[-2]["system_fingerprint"]
    assert read[-1]["choices"] == []
    assert {one["object"] for one in read} == {"chat.completion.chunk"}


async def test_a_caller_who_leaves_stops_the_engine(
    frail: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    async with client_of(frail) as client:
        stream = await client.chat.completions.create(
            stream=True, **long_fields(long_request, "left-1")
        )
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()

        assert await until_recorded(frail, "left-1") == "cancelled"
        assert 0 < token_count(frail, "left-1") < LONG_TOKEN_COUNT
        # One request runs at a time here: its place is free again.
        after = await client.chat.completions.create(
            model="auto", messages=user("What is 3 plus 4?")
        )
    assert after.choices[0].message.content


async def test_a_caller_who_waited_no_longer_stops_the_engine(
    frail: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    (pid,) = frail.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        async with client_of(frail, timeout=openai.Timeout(60, read=2)) as client:
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(**long_fields(long_request, "left-2"))
    finally:
        os.kill(pid, signal.SIGCONT)

    assert await until_recorded(frail, "left-2") == "cancelled"
    assert token_count(frail, "left-2") < LONG_TOKEN_COUNT


async def test_a_worker_killed_in_mid_stream_is_told_as_an_error(
    frail: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    (pid,) = frail.worker_pids()
    async with client_of(frail) as client:
        stream = await client.chat.completions.create(
            stream=True, **long_fields(long_request, "lost-1")
        )
        is_killed = False
        with pytest.raises(openai.APIError) as caught:
            async for chunk in stream:
                if chunk.choices[0].delta.content and not is_killed:
                    os.kill(pid, signal.SIGKILL)
                    is_killed = True

    assert not isinstance(caught.value, openai.APIStatusError)  # 200 had been said
    assert caught.value.code == "worker_lost"
    assert caught.value.body["reason"] == "ERROR_REASON_WORKER_LOST"
    assert await until_recorded(frail, "lost-1") == "refused"
    async with client_of(frail) as client:  # the next one waits for the restarted worker
        assert await client.chat.completions.create(model="auto", messages=user("3 plus 4?"))


async def test_a_full_pool_says_when_to_come_back(frail: Fleet) -> None:
    (pid,) = frail.worker_pids()
    os.kill(pid, signal.SIGSTOP)  # nothing ends meanwhile
    async with client_of(frail) as client:
        # A stream that has not begun has a status, too.
        asked = [
            asyncio.create_task(
                client.chat.completions.create(
                    model="base", messages=user("a"), max_tokens=2, stream=place == 1
                )
            )
            for place in range(4)  # two more than there is room for
        ]
        try:
            await until_two_are(asked)
        finally:
            os.kill(pid, signal.SIGCONT)
        ended = await asyncio.gather(*asked, return_exceptions=True)

    refusals = [one for one in ended if isinstance(one, openai.InternalServerError)]
    assert len(refusals) >= 2  # the worker, when it goes on, may have no room for two at once
    for refusal in refusals:
        assert refusal.status_code == 503
        assert refusal.code == "server_is_overloaded"
        assert int(refusal.response.headers["retry-after"]) >= 1
        assert refusal.response.headers["x-should-retry"] == "true"


async def until_two_are(asked: list[asyncio.Task[object]]) -> None:
    """Return when two of the requests have ended, or more."""

    async def are_two() -> bool:
        return sum(one.done() for one in asked) >= 2

    await until(are_two)


async def test_sigterm_lets_a_stream_end_and_takes_nobody_else(
    tmp_path: object, long_request: inference_pb2.GenerateRequest
) -> None:
    async with running_fleet(tmp_path, server__http="127.0.0.1:0") as fleet:
        async with client_of(fleet) as client:
            stream = await client.chat.completions.create(
                stream=True, **long_fields(long_request, "last-1")
            )
            await anext(aiter(stream))
            stopped = asyncio.create_task(fleet.stop())

            async def is_closed() -> bool:
                try:
                    _, writer = await asyncio.open_connection(*http_address(fleet).split(":"))
                except OSError:
                    return True
                writer.close()
                return False

            await until(is_closed)
            chunks = [chunk async for chunk in stream]

        assert chunks[-1].choices[0].finish_reason
        assert await stopped == 0
        assert rows(fleet) == [("last-1", "answered")]


async def test_a_stream_beyond_the_grace_period_is_told_why(
    tmp_path: object, long_request: inference_pb2.GenerateRequest
) -> None:
    limits = {"server__drain_limit_s": 0, "server__http": "127.0.0.1:0"}
    async with running_fleet(tmp_path, **limits) as fleet:
        (pid,) = fleet.worker_pids()
        async with client_of(fleet) as client:
            stream = await client.chat.completions.create(
                stream=True, **long_fields(long_request, "last-2")
            )
            await anext(aiter(stream))
            os.kill(pid, signal.SIGSTOP)  # it cannot end by itself
            stopped = asyncio.create_task(fleet.stop())
            try:
                with pytest.raises(openai.APIError) as caught:
                    [chunk async for chunk in stream]
            finally:
                os.kill(pid, signal.SIGCONT)

        assert caught.value.code == "draining"
        assert await stopped == 0
        assert rows(fleet) == [("last-2", "cancelled")]


async def numbers(count: int, log: list[int]) -> AsyncGenerator[int, None]:
    """All of them are ready at once."""
    try:
        for number in range(count):
            log.append(number)
            yield number
    finally:
        log.append(-1)


async def test_values_that_are_ready_together_travel_together() -> None:
    log: list[int] = []
    async with batched(numbers(100, log)) as batches:
        found = [batch async for batch in batches]
    assert found == [list(range(100))]


async def test_a_value_waits_for_no_other() -> None:
    gate = asyncio.Event()

    async def slow() -> AsyncGenerator[str, None]:
        yield "first"
        await gate.wait()
        yield "second"
        yield "third"

    async with batched(slow()) as batches:
        assert await anext(batches) == ["first"]
        gate.set()
        assert await anext(batches) == ["second", "third"]


async def test_a_slow_reader_holds_its_writer_back() -> None:
    log: list[int] = []
    async with batched(numbers(10_000, log)) as batches:
        await anext(batches)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(log) <= 2 * LARGEST_COUNT
    assert log[-1] == -1, "what is left early is closed"


async def test_a_failure_comes_after_what_was_before_it() -> None:
    async def breaks() -> AsyncGenerator[int, None]:
        yield 1
        raise ValueError("over")

    found = []
    with pytest.raises(ValueError, match="over"):
        async with batched(breaks()) as batches:
            async for batch in batches:
                found += batch
    assert found == [1]
