"""Two real gateways over one Redis answer, and charge, a request once."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from deltafleet.v1 import inference_pb2
from support.fleet import DEMO, Fleet, first_text, refusal, rest, rows, running_fleet
from support.redis_server import RedisServer

ASKED = inference_pb2.GenerateRequest(prompt="What is 2 + 3?")
OTHER = inference_pb2.GenerateRequest(prompt="What is 2 + 4?")
LIMITS = "\nlimits: {connect_timeout_s: 20, operation_timeout_s: 20, lease_s: 10}\n"


@dataclass
class Pair:
    """Two gateways with a ledger each, and the Redis that they share."""

    one: Fleet
    two: Fleet
    redis: RedisServer

    def rows(self, request_id: str) -> list[str]:
        """How it ended, in both ledgers together."""
        both = rows(self.one) + rows(self.two)
        return [outcome for name, outcome in both if name == request_id]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    home = tmp_path_factory.mktemp("names")
    text = re.sub(
        r"^( *path: | *(?:delta|examples_file): )(?=[a-z])",
        rf"\1{DEMO.parent}/",
        DEMO.read_text(),
        flags=re.MULTILINE,
    )
    (home / "fleet.yaml").write_text(text + LIMITS)
    server = RedisServer()
    try:
        async with contextlib.AsyncExitStack() as stack:
            fleets = []
            for name in ("one", "two"):
                (home / name).mkdir()
                running = running_fleet(
                    home / name, home / "fleet.yaml", limits__redis_url=server.url
                )
                fleets.append(await stack.enter_async_context(running))
            yield Pair(fleets[0], fleets[1], server)
    finally:
        server.remove()


def named(name: str) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", name),)


async def test_both_asked_at_once_answer_once(pair: Pair) -> None:
    for turn in range(8):
        name = f"order-{turn}"
        answers = await asyncio.gather(
            *(
                fleet.inference.Generate(ASKED, metadata=named(name))
                for fleet in (pair.one, pair.two, pair.one)
            )
        )
        assert pair.rows(name) == ["answered"]
        assert len({answer.text for answer in answers}) == 1
        assert len({answer.summary.cost_nano_usd for answer in answers}) == 1
        assert sorted(answer.summary.is_repeat for answer in answers) == [False, True, True]


async def test_one_that_streams_is_waited_for(
    pair: Pair, long_request: inference_pb2.GenerateRequest
) -> None:
    first = pair.one.inference.StreamGenerate(long_request, metadata=named("long-1"))
    begun = await first_text(first)
    second = pair.two.inference.StreamGenerate(long_request, metadata=named("long-1"))
    heard, told = await asyncio.gather(rest(second), rest(first))
    assert "".join(event.text for event in heard) == begun + "".join(e.text for e in told)
    assert [event.WhichOneof("event") for event in heard] == ["decision", "text", "summary"]
    assert heard[-1].summary.is_repeat
    assert pair.rows("long-1") == ["answered"]

    failure = await refusal(pair.two.inference.Generate(OTHER, metadata=named("long-1")))
    assert failure.code is grpc.StatusCode.ALREADY_EXISTS
    assert failure.reason == "ERROR_REASON_REQUEST_ID_REUSED"
    text = await asyncio.to_thread(_page, pair.two)
    assert 'deltafleet_repeated_requests_total{state="running_elsewhere"}' in text
    assert "deltafleet_unshared_named_requests_total 0.0" in text


async def test_what_is_cancelled_runs_where_it_is_waited_for(
    pair: Pair, long_request: inference_pb2.GenerateRequest
) -> None:
    first = pair.one.inference.StreamGenerate(long_request, metadata=named("long-2"))
    await first_text(first)
    second = pair.two.inference.Generate(long_request, metadata=named("long-2"))
    first.cancel()
    assert not (await second).summary.is_repeat
    assert sorted(pair.rows("long-2")) == ["answered", "cancelled"]


async def test_what_a_killed_gateway_ran_is_run_by_another(
    pair: Pair, long_request: inference_pb2.GenerateRequest
) -> None:
    first = pair.one.inference.StreamGenerate(long_request, metadata=named("long-3"))
    await first_text(first)
    pair.one.process.kill()
    second = await pair.two.inference.Generate(long_request, metadata=named("long-3"))
    assert not second.summary.is_repeat
    assert pair.rows("long-3") == ["answered"]
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await rest(first)


def _page(fleet: Fleet) -> str:
    with urllib.request.urlopen(f"http://{fleet.metrics}/metrics") as page:
        return page.read().decode()
