"""How the failures of a plain OpenAI-compatible server are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from pool.openai_members import (
    answer_of,
    drop_at_once,
    drop_in_mid_stream,
    member_of,
    refusing,
    run_request,
    running_pool,
)

from model_pool.errors import (
    FleetError,
    InvalidParameter,
    PoolSaturated,
    PromptTooLong,
    SpecialistUnloadable,
    WorkerLost,
)
from support.openai_server import (
    TEXTS,
    Call,
    OpenAIServer,
    openai_server,
    whole_answer,
)


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[OpenAIServer]:
    """It serves `sql` as my-sql."""
    async with openai_server("my-sql", "other") as running:
        yield running


def ending(reason: str | None):
    async def answer(call: Call) -> None:
        await call.begin()
        await call.say("It ")
        await call.end(reason)

    return answer


def telling(error: dict[str, object]):
    async def answer(call: Call) -> None:
        await call.begin()
        await call.event({"error": error})

    return answer


async def say_nonsense(call: Call) -> None:
    await call.begin()
    await call.raw('data: {"choices": [1]}\n\n')


async def say_no_json(call: Call) -> None:
    await call.begin()
    await call.raw("data: {\n\n")


async def show_a_page(call: Call) -> None:
    await call.reply(200, "<html>", kind="text/html")


VLLM_TOO_LONG = "This model's maximum context length is 128 tokens. However, your prompt contains"
FAILURES: dict[str, tuple[Callable[[Call], Awaitable[None]], type[FleetError]]] = {
    "busy": (refusing(429), PoolSaturated),
    "a prompt that is too long for vLLM": (refusing(400, VLLM_TOO_LONG), PromptTooLong),
    "a prompt that is too long for OpenAI": (
        refusing(400, {"message": "no", "code": "context_length_exceeded"}),
        PromptTooLong,
    ),
    "a prompt that is found too long later": (
        telling({"message": VLLM_TOO_LONG, "code": 400}),
        PromptTooLong,
    ),
    "a parameter": (refusing(400, "top_p is odd"), InvalidParameter),
    "a shape": (refusing(422, "x" * 100_000), InvalidParameter),
    "no such model": (refusing(404), SpecialistUnloadable),
    "a key": (refusing(401), WorkerLost),
    "an error": (refusing(500), WorkerLost),
    "an error in the stream": (telling({"message": "no", "code": 500}), WorkerLost),
    "a connection that breaks at once": (drop_at_once, WorkerLost),
    "a connection that breaks": (drop_in_mid_stream, WorkerLost),
    "an answer without end": (ending(None), WorkerLost),
    "an answer that was aborted": (ending("abort"), WorkerLost),
    "nonsense": (say_nonsense, WorkerLost),
    "no json": (say_no_json, WorkerLost),
    "a page": (show_a_page, WorkerLost),
}


@pytest.mark.parametrize("name", sorted(FAILURES))
async def test_a_failure_is_told_in_our_words(server: OpenAIServer, name: str) -> None:
    server.answer, expected = FAILURES[name]
    async with running_pool(member_of(server)) as pool:
        with pytest.raises(FleetError) as caught:
            await answer_of(pool, run_request())
        assert type(caught.value) is expected
        assert len(caught.value.message) < 1000

        # It did no lasting harm.
        server.answer = whole_answer
        assert (await answer_of(pool, run_request()))[-1].finish_reason


@pytest.mark.parametrize(
    ("told", "expected_s"), [("7", 7), ("0.5", 0.5), ("soon", 1), ("inf", 1), ("-3", 1), (None, 1)]
)
async def test_a_busy_server_says_when_to_come_back(
    server: OpenAIServer, told: str | None, expected_s: float
) -> None:
    server.answer = refusing(429, **({"retry_after": told} if told else {}))
    async with running_pool(member_of(server)) as pool:
        with pytest.raises(PoolSaturated) as caught:
            await answer_of(pool, run_request())

    assert caught.value.retry_after_s == expected_s
    assert len(server.calls) == 1


async def test_a_server_lost_before_its_first_word_is_asked_once_more(
    server: OpenAIServer,
) -> None:
    async def drop_first(call: Call) -> None:
        await (drop_at_once if len(server.calls) == 1 else whole_answer)(call)

    server.answer = drop_first
    async with running_pool(member_of(server)) as pool:
        answer = await answer_of(pool, run_request())

    assert "".join(one.text for one in answer) == "".join(TEXTS)
    assert len(server.calls) == 2


async def test_a_server_lost_after_its_first_word_is_not_asked_again(
    server: OpenAIServer,
) -> None:
    server.answer = drop_in_mid_stream
    async with running_pool(member_of(server)) as pool:
        with pytest.raises(WorkerLost):
            await answer_of(pool, run_request())

    assert len(server.calls) == 1
