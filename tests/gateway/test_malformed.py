"""What is no request: a proper end each, and the fleet serves on. `make fuzz` sends many more."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import zlib
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from benchmarks.fuzz.calls import METHODS, cases, send_all
from benchmarks.fuzz.connections import (
    Reply,
    conversations,
    exchange,
    judge_frames,
    send_each,
)
from benchmarks.fuzz.frames import (
    GENERATE,
    LIST_MODELS,
    PREFACE,
    data,
    headers,
    headers_of,
    message,
    read_frames,
    settings,
)
from benchmarks.fuzz.http1 import exchanges, judge_answers
from benchmarks.fuzz.wire import delimited
from deltafleet.v1 import fleet_pb2, inference_pb2, routing_pb2
from support.fleet import Fleet, refusal, running_fleet

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = (
    "0",
    "3",
    "4",
    "8",
    "12",
)
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def strict(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A gateway that waits a second for a request, two for a call, and takes few connections."""
    limits = {"receive_limit_s": 1.0, "idle_limit_s": 2.0, "connection_limit": 50}
    directory = tmp_path_factory.mktemp("strict")
    overrides = {f"server__{name}": value for name, value in limits.items()}
    async with running_fleet(directory, awaits_workers=False, **overrides) as running:
        yield running


async def said(fleet: Fleet, *parts: bytes) -> tuple[str, str]:
    """Status and message that one call by hand gets."""
    reply = await exchange(
        fleet.address,
        PREFACE + settings() + b"".join(parts),
        quiet_s=60.0,
        is_enough=lambda content: bool(read_frames(content).statuses),
    )
    return read_frames(reply.content).statuses[0]


def call(path: str | bytes, *more: tuple[str, str | bytes]) -> bytes:
    return headers(1, headers_of(path, more))


async def test_mutated_and_senseless_messages(fleet: Fleet) -> None:
    chosen = itertools.islice(cases(random.Random(8)), 1500)
    tally = await send_all([fleet.channel], chosen, concurrency=16)

    assert not tally.faults, tally.samples
    assert tally.count == 1500
    assert {path for path, _ in tally.ends} >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


async def test_broken_frames_and_headers(fleet: Fleet) -> None:
    chosen = itertools.islice(conversations(random.Random(8)), 400)
    replies = await send_each(fleet.address, chosen, judge_frames, concurrency=100)

    assert not replies.faults, replies.samples
    assert replies.count == 400
    assert replies.kinds["GOAWAY"] and replies.kinds["grpc-status 0"]


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"/deltafleet.v1.FleetService/\xc0", b"\x80", b""])
async def test_a_path_that_is_no_text_is_refused_and_ends_nothing(
    fleet: Fleet, path: bytes
) -> None:
    assert (await said(fleet, call(path), data(1, message(b""))))[0] == UNIMPLEMENTED
    assert await fleet.models.ListModels(fleet_pb2.ListModelsRequest())


async def test_a_header_that_is_no_text_is_taken_and_not_logged(fleet: Fleet) -> None:
    odd = call(LIST_MODELS, ("authorization", b"Bearer \xffsecret"), ("x-request-id", b"\xfe"))

    assert (await said(fleet, odd, data(1, message(b""))))[0] == OK
    assert not [line for line in fleet.lines if "secret" in line]


@pytest.mark.parametrize("path", [GENERATE, LIST_MODELS, HEALTH])
@pytest.mark.parametrize("body", [b"", b"\x00\x00", message(b"abc", length=100)])
async def test_a_call_that_ends_without_a_message(fleet: Fleet, path: str, body: bytes) -> None:
    assert await said(fleet, call(path), data(1, body)) == (
        INVALID_ARGUMENT,
        "the call ended without a message",
    )


@pytest.mark.parametrize("path", [HEALTH, REFLECTION])
async def test_the_other_services_refuse_bad_bytes(fleet: Fleet, path: str) -> None:
    assert (await said(fleet, call(path), data(1, message(b"\xff\xff"))))[0] == INVALID_ARGUMENT


async def test_a_message_that_gzip_made_is_read(fleet: Fleet) -> None:
    channel = grpc.aio.insecure_channel(fleet.address, compression=grpc.Compression.Gzip)
    async with channel:
        listing = channel.unary_unary(
            LIST_MODELS,
            request_serializer=fleet_pb2.ListModelsRequest.SerializeToString,
            response_deserializer=fleet_pb2.ListModelsResponse.FromString,
        )
        refused = listing(fleet_pb2.ListModelsRequest(page_token="a" * 5000))

        assert (await refusal(refused)).reason == "ERROR_REASON_INVALID_PARAMETER"
        assert len((await listing(fleet_pb2.ListModelsRequest(page_size=2))).models) == 2


def packed(content: bytes) -> bytes:
    return data(1, message(content, flag=1))


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8bnonsense", gzip.compress(b"\x08\x01")[:-9], b"abc", zlib.compress(b"\x08\x01")],
    ids=["nonsense", "cut", "not gzip", "deflate"],
)
async def test_a_message_that_cannot_be_unpacked(fleet: Fleet, content: bytes) -> None:
    status, _ = await said(fleet, call(LIST_MODELS, ("grpc-encoding", "gzip")), packed(content))

    assert status == INVALID_ARGUMENT


async def test_a_bomb_is_not_unpacked(fleet: Fleet) -> None:
    bomb = message(gzip.compress(bytes(40 * 2**20)), flag=1)
    assert len(bomb) < 65_535  # what may be sent before the server grants more
    sent = [data(1, bomb[at : at + 16_000], ends=False) for at in range(0, len(bomb), 16_000)]
    status, text = await said(fleet, call(GENERATE, ("grpc-encoding", "gzip")), *sent, data(1, b""))

    assert status == RESOURCE_EXHAUSTED
    assert "the limit is 1048576" in text


@pytest.mark.parametrize("text", ["x" * 500_000, "é" * 200_000, "\r\n\x00\U0010ffff" * 10_000])
async def test_a_long_text_is_not_sent_back_whole(fleet: Fleet, text: str) -> None:
    failures = [
        await refusal(fleet.models.GetModel(fleet_pb2.GetModelRequest(model=text))),
        await refusal(fleet.ask("a", model=text)),
    ]

    for failure in failures:
        assert failure.reason == "ERROR_REASON_UNKNOWN_MODEL"
        assert 200 < len(failure.metadata["model"].encode()) < 300
        assert len(failure.message.encode()) < 1100


async def test_half_a_million_messages_do_not_hold_others_up(fleet: Fleet) -> None:
    many = routing_pb2.RouteRequest(messages=[routing_pb2.ChatMessage()] * 500_000)
    failure = await refusal(fleet.routing.Route(many))

    assert failure.reason == "ERROR_REASON_INVALID_PARAMETER"
    assert failure.message == "messages: at most 256, not 500000"


@pytest.mark.parametrize(("count", "field"), [(0, "messages.100"), (5, "messages.100"), (300, "?")])
async def test_an_unknown_field_is_found_wherever_it_is(
    fleet: Fleet, count: int, field: str
) -> None:
    route = fleet.channel.unary_unary("/deltafleet.v1.RoutingService/Route")
    failure = await refusal(route(delimited(2, b"") * count + delimited(2, b"\xa2\x06\x00")))

    assert failure.reason == "ERROR_REASON_UNKNOWN_FIELD"
    assert failure.metadata["field"] == field


async def test_a_request_that_never_comes_is_not_waited_for(strict: Fleet) -> None:
    for body in (b"", data(1, b"\x00", ends=False), data(1, message(b"a", length=9), ends=False)):
        assert await said(strict, call(LIST_MODELS), body) == (
            DEADLINE_EXCEEDED,
            "the request did not arrive within 1 s",
        )


async def test_idle_connections_are_closed_and_too_many_not_taken(strict: Fleet) -> None:
    async def idle() -> Reply:
        return await exchange(strict.address, PREFACE + settings(), quiet_s=60.0)

    replies = await asyncio.gather(*(idle() for _ in range(80)))

    assert all(reply.ended for reply in replies)
    greeted = [reply for reply in replies if reply.content]
    assert 0 < len(greeted) <= 50
    assert await strict.models.ListModels(fleet_pb2.ListModelsRequest())


async def test_broken_requests_to_the_metrics_port(fleet: Fleet) -> None:
    chosen = itertools.islice(exchanges(random.Random(8), ("/", "/metrics", "/x")), 1000)
    replies = await send_each(fleet.metrics, chosen, judge_answers, concurrency=20)

    assert not replies.faults, replies.samples
    assert replies.kinds["status 200"] and replies.kinds["status 400"]


@pytest.mark.parametrize(
    "header", [b"Accept-Encoding: \xff", b"Accept: \xfe\xff", b"X: " + b"y" * 5000]
)
async def test_the_metrics_are_told_whatever_the_headers(fleet: Fleet, header: bytes) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n%s\r\nConnection: close\r\n\r\n" % header
    reply = await exchange(fleet.metrics, request, quiet_s=60.0)

    assert reply.content.startswith(b"HTTP/1.1 200")
    assert b"deltafleet_" in reply.content


async def test_nonsense_after_a_request_does_not_break_its_answer(fleet: Fleet) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n\x00nonsense\r\n\r\n"
    replies = await asyncio.gather(*(exchange(fleet.metrics, request) for _ in range(20)))

    assert all(reply.ended for reply in replies)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /metrics HTTP/1.1\r\nHost: a\r\n"])
async def test_the_metrics_port_does_not_wait_for_ever(fleet: Fleet, sent: bytes) -> None:
    host, _, port = fleet.metrics.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        assert await reader.read() == b""  # the other side ended it
    except ConnectionResetError:
        pass
    finally:
        writer.close()


async def test_old_connections_are_replaced_and_no_call_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("aged")
    async with running_fleet(
        directory, awaits_workers=False, server__connection_age_s=1
    ) as running:
        own = asyncio.create_task(exchange(running.address, PREFACE + settings(), quiet_s=60.0))
        count = 0
        while not own.done():
            await running.models.ListModels(fleet_pb2.ListModelsRequest())
            count += 1

    reply = await own
    assert reply.ended and read_frames(reply.content).went_away
    assert count


async def test_nothing_of_it_was_a_fault_of_ours(fleet: Fleet) -> None:
    assert (await fleet.ask("What is 3 plus 4?")).text
    lines = [json.loads(line) for line in fleet.lines if line.startswith("{")]
    assert not [line for line in lines if line["level"] == "error" or "traceback" in line]
    assert len(METHODS) >= 7
    assert inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].methods[0] in METHODS
