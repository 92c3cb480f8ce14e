"""Connections that do less, or more, than ask: slow, large, idle, gone."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.http_door import connections, frame
from gateway.http_door.connections import LARGEST_HEAD_BYTES
from gateway.http_door.frame import Incoming
from gateway.http_door.reply import Reply
from model_pool.call import current_trace, request_id, time_left_s
from support.http_door import CHAT, chat_bytes, connected, door_of

BODY = b'{"model":"auto"}'


async def echo(incoming: Incoming, reply: Reply) -> None:
    """Answers with what was sent."""
    await reply.whole(incoming.body)


async def head_of(reader: asyncio.StreamReader) -> str:
    """Status line and headers of an answer."""
    return (await reader.readuntil(b"\r\n\r\n")).decode()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n",
        b"\r\n\r\n",
    ],
    ids=["nothing", "half a head", "empty lines"],
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_LIMIT_S", 0.1)
    async with door_of(echo) as door, connected(door.address) as (reader, writer):
        writer.write(sent)
        assert await reader.read() == b""  # until it is closed


async def test_nor_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_LIMIT_S", 0.1)
    async with door_of(echo) as door, connected(door.address) as (reader, writer):
        writer.write(chat_bytes(BODY))
        await head_of(reader)
        await reader.readexactly(len(BODY))
        writer.write(b"\r\n")  # nothing, but no silence: uvicorn would wait for ever
        assert await reader.read() == b""


async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frame, "BODY_LIMIT_S", 0.1)
    async with door_of(echo) as door, connected(door.address) as (reader, writer):
        writer.write(chat_bytes(BODY)[:-1])
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"connection: close" in answer


async def test_an_answer_outlives_the_limit_of_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_LIMIT_S", 0.05)

    async def slow(incoming: Incoming, reply: Reply) -> None:
        await asyncio.sleep(0.3)
        await reply.whole(b"{}")

    async with door_of(slow) as door, connected(door.address) as (reader, writer):
        writer.write(chat_bytes(BODY) + b"\r\n")  # a stray line end, as old clients send it
        assert (await head_of(reader)).startswith("HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * (LARGEST_HEAD_BYTES + 1) + b"\r\n\r\n",
        b"GET /" + b"a" * (LARGEST_HEAD_BYTES + 1) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 2**20,
    ],
    ids=["a header", "a path", "many headers", "no end"],
)
async def test_a_large_head(head: bytes) -> None:
    async with door_of(echo) as door, connected(door.address) as (reader, writer):
        writer.write(head)
        answer = await reader.readuntil(b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"\xff\n",
    ],
    ids=["TLS", "HTTP/2", "another version", "bytes"],
)
async def test_what_is_no_request(data: bytes) -> None:
    async with door_of(echo) as door, connected(door.address) as (reader, writer):
        writer.write(data)
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


async def test_garbage_is_never_answered_in_the_middle_of_an_answer() -> None:
    begun = asyncio.Event()

    async def stream(incoming: Incoming, reply: Reply) -> None:
        await reply.events(b"data: 1\n\n", {})
        begun.set()
        await asyncio.Event().wait()

    async with door_of(stream) as door, connected(door.address) as (reader, writer):
        writer.write(chat_bytes(BODY))
        await begun.wait()
        writer.write(b"\xff\xff\n")
        answer = await reader.read()
    assert answer.endswith(b"data: 1\n\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert door.ended == [(CHAT, 499, "")]


async def test_idle_connections_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http_door.server.most_connections", lambda: 2)
    go = asyncio.Event()

    async def wait(incoming: Incoming, reply: Reply) -> None:
        await go.wait()
        await reply.whole(incoming.body)

    async with (
        door_of(wait) as door,
        connected(door.address) as (busy, busy_writer),
        connected(door.address) as (idle, _),
    ):
        busy_writer.write(chat_bytes(BODY))
        async with connected(door.address) as (_, newer_writer):
            assert await idle.read() == b""  # cut
            newer_writer.write(chat_bytes(BODY))
            async with connected(door.address) as (newest, _):
                await newest.read(1)  # all others are busy or newer: one is cut
            go.set()
            assert (await head_of(busy)).startswith("HTTP/1.1 200 ")


async def test_a_large_body_hears_of_its_limit() -> None:
    async with door_of(echo, max_message_bytes=1024) as door:
        for body in (b"a" * 1025, b"a" * 2**22):
            async with connected(door.address) as (reader, writer):
                writer.write(chat_bytes(body))
                await writer.drain()
                assert (await head_of(reader)).startswith("HTTP/1.1 413 ")
        async with connected(door.address) as (reader, writer):
            chunked = f"POST {CHAT} HTTP/1.1\r\ncontent-type: application/json\r\n"
            writer.write(chunked.encode() + b"transfer-encoding: chunked\r\n\r\n")
            writer.write(b"800\r\n" + b"a" * 2048 + b"\r\n0\r\n\r\n")
            assert (await head_of(reader)).startswith("HTTP/1.1 413 ")


async def test_a_reader_who_takes_nothing_is_let_go_at_its_deadline() -> None:
    async def endless(incoming: Incoming, reply: Reply) -> None:
        while True:
            await reply.events(b"x" * 65536, {})

    async with (
        door_of(endless, default_deadline_s=1) as door,
        connected(door.address) as (reader, writer),
    ):
        reader._transport.pause_reading()
        writer.write(chat_bytes(BODY))
        while not door.ended:
            await asyncio.sleep(0.02)
        assert not door._server.server_state.connections
    assert door.ended == [(CHAT, 200, "deadline_exceeded")]


async def test_what_the_frame_knows_of_a_call() -> None:
    seen = []

    async def look(incoming: Incoming, reply: Reply) -> None:
        seen.append((incoming.call, request_id.get(), time_left_s(), current_trace.get()))
        await reply.whole(b"{}")

    async with (
        door_of(look, default_deadline_s=50) as door,
        connected(door.address) as (reader, writer),
    ):
        for headers in (
            ["x-request-id: a-1", "deltafleet-caller: somebody", "x-deltafleet-timeout-s: 7.5"],
            ["idempotency-key: k-1", "x-request-id: a-2", "x-deltafleet-timeout-s: 900"],
            ["x-request-id: not plain", f"traceparent: 00-{'ab' * 16}-{'cd' * 8}-01"],
        ):
            writer.write(chat_bytes(b"{}", *headers))
            head = await head_of(reader)
            assert f"x-request-id: {seen[-1][1]}\r\n" in head
            await reader.readexactly(2)
    (named, _, short_s, trace), (keyed, _, long_s, _), (made, _, _, kept_trace) = seen

    assert (named.request_id, named.has_own_id, named.caller.name) == ("a-1", True, "somebody")
    assert 7 < short_s <= 7.5
    assert (keyed.request_id, keyed.has_own_id, keyed.caller.name) == ("k-1", True, "")
    assert 40 < long_s <= 50
    assert not made.has_own_id
    assert len(made.request_id) == 36
    assert (trace, kept_trace) == ("", "ab" * 16)
