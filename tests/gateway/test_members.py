"""Plain OpenAI-compatible servers in the pool, through the real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
import yaml
from grpc import StatusCode

from deltafleet.v1 import cost_pb2, fleet_pb2, inference_pb2
from support.command import run
from support.fleet import (
    Fleet,
    failure_of,
    first_text,
    refusal,
    rest,
    rows,
    running_fleet,
    until,
)
from support.openai_server import (
    OUTPUT_TOKEN_COUNT,
    PROMPT_TOKEN_COUNT,
    TEXTS,
    Call,
    OpenAIServer,
    openai_server,
    whole_answer,
)

KEY = 4711
PRICE_NANO_USD_PER_S = 1_000_000  # 3.6 USD per hour


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running_server() -> AsyncIterator[OpenAIServer]:
    """It serves sql, as my-sql, to those who have its key."""
    async with openai_server("my-sql", "other", key=str(KEY)) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running_mixed(
    running_server: OpenAIServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """The demo fleet with one worker of ours and the server."""
    openai = {"url": running_server.url, "models": {"sql": "my-sql"}}
    async with running_fleet(
        tmp_path_factory.mktemp("mixed"),
        pool__workers=[
            {"name": "ours"},
            {"name": "big-1", "openai": openai, "hardware": {"usd_per_hour": 3.6}},
        ],
        member_key_big_1=KEY,
    ) as fleet:
        yield fleet


@pytest_asyncio.fixture(loop_scope="session")
async def server(running_server: OpenAIServer) -> OpenAIServer:
    """The server, answering."""
    running_server.answer = whole_answer
    running_server.calls.clear()
    return running_server


@pytest_asyncio.fixture(loop_scope="session")
async def mixed(running_mixed: Fleet, server: OpenAIServer) -> Fleet:
    """The mixed fleet with all of its workers up."""
    await until_live(running_mixed, "sql", "big-1")
    await running_mixed.ask("a", model="base", max_output_token_count=1)
    return running_mixed


async def model_of(fleet: Fleet, name: str) -> fleet_pb2.Model:
    answer = await fleet.models.GetModel(fleet_pb2.GetModelRequest(model=name))
    return answer.model


async def until_live(fleet: Fleet, model: str, worker: str, is_live: bool = True) -> None:
    async def is_so() -> bool:
        found = await model_of(fleet, model)
        return (worker in [place.worker for place in found.placements]) is is_live

    await until(is_so)


async def until_logged(fleet: Fleet, event: str) -> None:
    async def is_so() -> bool:
        return any(f'"event": "{event}"' in line for line in fleet.lines)

    await until(is_so)


async def life_of(
    fleet: Fleet, worker: str, condition: Callable[[cost_pb2.WorkerCost], bool]
) -> cost_pb2.WorkerCost:
    """The worker's latest life, once the ledger has it so."""
    found: list[cost_pb2.WorkerCost] = []

    async def is_so() -> bool:
        report = await fleet.costs.GetCostReport(cost_pb2.GetCostReportRequest())
        found[:] = [life for life in report.workers if life.worker == worker][:1]
        return bool(found) and condition(found[0])

    await until(is_so)
    return found[0]


def long_answer(begun: asyncio.Event, gone: asyncio.Event) -> Callable[[Call], object]:
    """An answer that begins and does not end by itself."""

    async def answer(call: Call) -> None:
        await call.begin()
        await call.say("It ")
        begun.set()
        await call.until_gone()
        gone.set()

    return answer


async def test_a_server_answers_for_what_it_serves_and_ours_for_the_rest(
    mixed: Fleet, server: OpenAIServer
) -> None:
    theirs = await mixed.stream("How many customers are there?", model="sql", seed=3)
    ours = await mixed.ask("What is 3 plus 4?", model="arithmetic")

    assert theirs.texts == list(TEXTS)
    summary = theirs.summary
    assert summary.worker == "big-1"
    assert summary.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert summary.prompt_token_count == PROMPT_TOKEN_COUNT
    assert summary.output_token_count == OUTPUT_TOKEN_COUNT
    assert summary.weights_digest == "openai:my-sql"
    assert summary.cost_nano_usd > 0
    assert ours.summary.worker == "ours"
    (call,) = server.calls
    assert call.body["model"] == "my-sql"
    assert call.body["messages"][0]["content"] == "How many customers are there?"


async def test_models_show_the_server_and_what_our_worker_read(mixed: Fleet) -> None:
    sql = await model_of(mixed, "sql")
    table = await run("models", "--server", mixed.address)

    assert sql.codec
    assert sql.stored_size_bytes > 0
    assert not sql.weights_digest.startswith("openai:"), "our worker knows better"
    assert not sql.fault
    assert "big-1" in table.output


async def test_busy_and_idle_time_of_a_server_cost_its_price(
    mixed: Fleet, server: OpenAIServer
) -> None:
    answers = [await mixed.ask("a", model="sql") for _ in range(3)]
    spent = sum(answer.summary.cost_nano_usd for answer in answers)
    busy_s = spent / PRICE_NANO_USD_PER_S

    life = await life_of(mixed, "big-1", lambda life: life.busy_s >= busy_s * 0.99)
    assert life.uptime_cost_nano_usd == pytest.approx(life.uptime_s * PRICE_NANO_USD_PER_S)
    assert life.idle_cost_nano_usd == pytest.approx(
        (life.uptime_s - life.busy_s) * PRICE_NANO_USD_PER_S
    )
    later = await life_of(mixed, "big-1", lambda one: one.uptime_s > life.uptime_s)
    assert later.incarnation == life.incarnation
    assert later.idle_cost_nano_usd > life.idle_cost_nano_usd


async def test_a_cancelled_request_is_closed_on_the_server(
    mixed: Fleet, server: OpenAIServer
) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()
    server.answer = long_answer(begun, gone)
    call = mixed.inference.StreamGenerate(inference_pb2.GenerateRequest(prompt="a", model="sql"))
    await first_text(call)
    call.cancel()
    await gone.wait()

    async def is_recorded() -> bool:
        return rows(mixed)[-1][1] == "cancelled"

    await until(is_recorded)


async def test_a_deadline_ends_the_call_there_too(mixed: Fleet, server: OpenAIServer) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()
    server.answer = long_answer(begun, gone)
    asked = inference_pb2.GenerateRequest(prompt="a", model="sql")
    failure = await refusal(mixed.inference.Generate(asked, timeout=10))
    await gone.wait()

    assert failure.code is StatusCode.DEADLINE_EXCEEDED


async def test_a_full_server_is_left_for_a_worker_with_room(
    mixed: Fleet, server: OpenAIServer
) -> None:
    async def refuse(call: Call) -> None:
        await call.refuse(429, retry_after="7")

    server.answer = refuse
    answer = await mixed.ask("a", model="sql", max_output_token_count=1)

    assert answer.summary.worker == "ours"
    assert len(server.calls) == 1


async def test_a_prompt_that_the_server_finds_too_long(mixed: Fleet, server: OpenAIServer) -> None:
    async def refuse(call: Call) -> None:
        await call.refuse(400, "This model's maximum context length is 8 tokens. " + "x" * 100_000)

    server.answer = refuse
    failure = await refusal(mixed.ask("a", model="sql"))

    assert failure.code is StatusCode.INVALID_ARGUMENT
    assert failure.reason == "ERROR_REASON_PROMPT_TOO_LONG"
    assert "8 tokens" in failure.message


async def test_a_server_that_breaks_off_is_told_and_not_retried(
    mixed: Fleet, server: OpenAIServer
) -> None:
    async def break_off(call: Call) -> None:
        await call.begin()
        await call.say("It ")
        await call.drop()

    server.answer = break_off
    call = mixed.inference.StreamGenerate(inference_pb2.GenerateRequest(prompt="a", model="sql"))
    assert await first_text(call) == "It "
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(call)
    failure = failure_of(caught.value)

    assert failure.reason == "ERROR_REASON_WORKER_LOST"
    assert failure.metadata == {"worker": "big-1"}
    assert len(server.calls) == 1


async def test_when_the_server_fails_before_a_word_ours_answers(
    mixed: Fleet, server: OpenAIServer
) -> None:
    async def fail(call: Call) -> None:
        await call.refuse(500)

    server.answer = fail
    answer = await mixed.ask("How many customers are there?", model="sql")

    assert answer.summary.worker == "ours"
    assert answer.text
    assert len(server.calls) == 1


async def test_a_server_that_goes_down_and_comes_up_again(
    mixed: Fleet, server: OpenAIServer
) -> None:
    before = await life_of(mixed, "big-1", lambda life: True)
    await server.stop()
    without = await mixed.ask("How many customers are there?", model="sql")
    assert without.summary.worker == "ours"
    await until_logged(mixed, "member_fault")  # asked, and not only suspected
    await until_live(mixed, "sql", "big-1", is_live=False)

    await server.start()
    await until_live(mixed, "sql", "big-1")
    await life_of(mixed, "big-1", lambda life: life.incarnation != before.incarnation)


def write_fleet(directory: Path, server: OpenAIServer, models: dict[str, str]) -> Path:
    """One specialist, whose files are not here, and the server alone."""
    worker = {"name": "big", "openai": {"url": server.url, "models": models}}
    specialist = {"description": "d", "delta": "nowhere.delta", "examples": ["Which customers"]}
    document = {
        "base": {"path": "nowhere"},
        "specialists": {"sql": specialist},
        "pool": {
            "workers": [worker],
            "hardware": {"usd_per_hour": 7.2, "share": 0.5},
            "worker_wait_s": 0,
        },
    }
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


async def test_a_fleet_of_nothing_but_a_server(tmp_path: Path) -> None:
    async with openai_server("my-base") as server:
        path = write_fleet(tmp_path, server, {"sql": "my-sql", "base": "my-base"})
        checked = await run("check", path)
        assert checked.code == 0, checked.errors
        assert "my-sql on big" in checked.output

        async with running_fleet(tmp_path, path) as fleet:
            assert not fleet.worker_pids()
            answer = await fleet.ask("Which glaciers of Patagonia calve into a lake?")
            assert answer.decision.model == "base"
            assert answer.text == "".join(TEXTS)

            failure = await refusal(fleet.ask("Which customers"))
            assert failure.reason == "ERROR_REASON_SPECIALIST_UNLOADABLE"
            sql, base = await model_of(fleet, "sql"), await model_of(fleet, "base")
            assert "does not list my-sql" in sql.fault
            assert (base.fault, base.codec, base.stored_size_bytes) == ("", "", 0)
            assert base.weights_digest == "openai:my-base"
            assert (await run("models", "--server", fleet.address)).code == 0

            await server.stop()
            await until_live(fleet, "base", "big", is_live=False)
            failure = await refusal(fleet.ask("a", model="base"))
            assert failure.code is StatusCode.UNAVAILABLE
            assert failure.reason == "ERROR_REASON_NO_WORKER_READY"

            await server.start()
            await fleet.until_serving()
            again = await fleet.ask("a", model="base")
            assert again.summary.cost_nano_usd > 0
