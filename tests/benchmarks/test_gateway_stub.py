"""The stub worker's own server, as a real gRPC client sees it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from benchmarks.gateway import grpc_serving
from benchmarks.gateway.pacing import TOKEN, Pacing
from benchmarks.gateway.stub_answers import StubAnswers
from benchmarks.gateway.stub_streams import StubStreams
from deltafleet.v1 import worker_pb2
from model_pool.worker_link import WorkerLink
from support.fleet import until


@pytest.fixture
async def answers() -> StubAnswers:
    return StubAnswers(["sql", "base"])


@pytest.fixture
async def link(answers: StubAnswers) -> AsyncIterator[WorkerLink]:
    async with grpc_serving.serving(StubStreams(answers)) as address:
        link = WorkerLink("stub", address)
        yield link
        await link.stop()


def asked(name: str, count: int, pacing: Pacing) -> worker_pb2.RunRequest:
    return worker_pb2.RunRequest(
        request_id=name, model="sql", max_output_token_count=count, seed=pacing.seed
    )


async def text_of(link: WorkerLink, request: worker_pb2.RunRequest) -> str:
    pieces = [one async for one in link.run(request, 60)]
    assert pieces[-1].finish_reason
    assert pieces[-1].output_token_count == request.max_output_token_count
    return "".join(one.text for one in pieces)


async def test_a_link_hears_its_status_and_its_models(link: WorkerLink) -> None:
    async def is_ready() -> bool:
        return link.is_ready

    link.start(lambda: None)
    await until(is_ready)
    assert link.serves == {"sql", "base"}
    assert await link.settle(asked("r", 1, Pacing(1))) == worker_pb2.SettleRunResponse()


@pytest.mark.parametrize("pacing", [Pacing(1), Pacing(8), Pacing(1, 0.001)])
async def test_answers_are_whole_however_they_come(
    link: WorkerLink, answers: StubAnswers, pacing: Pacing
) -> None:
    requests = [asked(str(number), 16, pacing) for number in range(200)]
    texts = await asyncio.gather(*(text_of(link, one) for one in requests))
    assert texts == [TOKEN * 16] * 200
    assert answers.run_count == 200 and not answers.cancelled_s


async def test_an_answer_larger_than_every_window_is_whole(link: WorkerLink) -> None:
    assert await text_of(link, asked("r", 90_000, Pacing(900))) == TOKEN * 90_000


async def test_a_run_that_is_given_up_is_noted(link: WorkerLink, answers: StubAnswers) -> None:
    async def is_noted() -> bool:
        return set(answers.cancelled_s) == {"left"}

    kept = asyncio.create_task(text_of(link, asked("kept", 20, Pacing(1, 0.01))))
    async with contextlib.aclosing(link.run(asked("left", 10_000, Pacing(1, 0.01)), 60)) as run:
        await anext(run)
    await until(is_noted)
    assert await kept == TOKEN * 20
