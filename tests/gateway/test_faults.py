"""Workers killed, callers gone, no room left: clear ends, nothing lost that was answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc import StatusCode

from deltafleet.v1 import cost_pb2, fleet_pb2, inference_pb2
from examples.demo.tasks import TASKS
from support.fleet import (
    DEMO,
    LONG_TOKEN_COUNT,
    Fleet,
    failure_of,
    first_text,
    refusal,
    rest,
    rows,
    running_fleet,
    until,
)

SEED = 4711


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def frail(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A fleet that may be harmed. Its worker runs one request, lets two wait, holds two models."""
    directory = tmp_path_factory.mktemp("frail")
    limits = {
        "pool__max_running_count": 1,
        "pool__max_queued_count": 2,
        "pool__memory_budget_mib": 30,
    }
    async with running_fleet(directory, **limits) as running:
        yield running


async def test_a_worker_killed_in_mid_stream(
    frail: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    answered = {(await frail.ask("What is 3 plus 4?")).summary.request_id for _ in range(5)}
    (pid,) = frail.worker_pids()
    call = frail.inference.StreamGenerate(long_request)
    await first_text(call)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(call)
    failure = failure_of(caught.value)

    assert failure.code is StatusCode.UNAVAILABLE
    assert failure.reason == "ERROR_REASON_WORKER_LOST"
    assert failure.metadata["worker"] == "worker-0"

    # The next request waits for the restarted worker, and succeeds.
    after = await frail.ask("What is 3 plus 4?")
    answered.add(after.summary.request_id)
    assert frail.worker_pids() != [pid]
    assert answered <= {name for name, outcome in rows(frail) if outcome == "answered"}


async def test_a_worker_killed_before_its_first_word_is_replaced(frail: Fleet) -> None:
    (pid,) = frail.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(frail.ask("What is 3 plus 4?"))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)

    assert (await asked).text


async def test_a_cancelled_stream_stops_computing(
    frail: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    call = frail.inference.StreamGenerate(long_request)
    await first_text(call)
    call.cancel()

    async def is_recorded() -> bool:
        return rows(frail)[-1][1] == "cancelled"

    await until(is_recorded)
    # One request runs at a time here: the place is free again, and the answer was not computed.
    await frail.ask("What is 3 plus 4?")
    with contextlib.closing(sqlite3.connect(frail.ledger)) as ledger:
        tokens = ledger.execute(
            "select output_token_count from requests where outcome = 'cancelled' order by row desc"
        ).fetchone()[0]
    assert tokens < LONG_TOKEN_COUNT


async def test_a_deadline_ends_the_call_and_is_recorded(
    frail: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    (pid,) = frail.worker_pids()
    os.kill(pid, signal.SIGSTOP)  # nothing is answered meanwhile
    try:
        failure = await refusal(frail.inference.Generate(long_request, timeout=2))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert failure.code is StatusCode.DEADLINE_EXCEEDED

    async def is_recorded() -> bool:
        return rows(frail)[-1][1] in {"deadline", "cancelled"}

    await until(is_recorded)
    assert (await frail.ask("What is 3 plus 4?")).text


async def test_a_full_pool_says_when_to_come_back(
    frail: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    (pid,) = frail.worker_pids()
    os.kill(pid, signal.SIGSTOP)  # nothing ends meanwhile
    try:
        calls = [frail.inference.StreamGenerate(long_request) for _ in range(3)]
        for call in calls:
            assert (await call.read()).HasField("decision")
        failure = await refusal(frail.ask("What is 3 plus 4?"))
    finally:
        os.kill(pid, signal.SIGCONT)
    for call in calls:
        call.cancel()

    assert failure.code is StatusCode.UNAVAILABLE
    assert failure.reason == "ERROR_REASON_POOL_SATURATED"
    assert failure.retry_after_s > 0


async def test_more_models_than_memory_come_and_go(frail: Fleet) -> None:
    problems = {task: TASKS[task].generate(random.Random(SEED)) for task in sorted(TASKS)}
    for _ in range(2):
        for task, problem in problems.items():
            answer = await frail.ask(problem.prompt)
            assert answer.decision.model == task
            assert TASKS[task].is_right(problem, answer.text)

    async def are_two_live() -> bool:
        page = await frail.models.ListModels(fleet_pb2.ListModelsRequest())
        return sum(bool(model.placements) for model in page.models) == 2

    await until(are_two_live)  # what a worker holds is told a moment after the answer


async def test_sigterm_lets_a_stream_end_and_loses_nothing(
    tmp_path: Path, long_request: inference_pb2.GenerateRequest
) -> None:
    async with running_fleet(tmp_path) as fleet:
        workers = fleet.worker_pids()
        call = fleet.inference.StreamGenerate(long_request)
        await first_text(call)
        stopped = asyncio.create_task(fleet.stop())
        events = await rest(call)

        assert events[-1].HasField("summary")
        assert await stopped == 0
        assert rows(fleet) == [(events[-1].summary.request_id, "answered")]
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


async def test_a_killed_gateway_keeps_its_ledger_and_takes_its_workers_along(
    tmp_path: Path,
) -> None:
    async with running_fleet(tmp_path) as fleet:
        answered = [(await fleet.ask("What is 3 plus 4?")).summary.request_id for _ in range(3)]
        workers = fleet.worker_pids()
        fleet.process.kill()
        await fleet.process.wait()

        assert [name for name, _ in rows(fleet)] == answered

        async def are_gone() -> bool:
            return not [pid for pid in workers if Path(f"/proc/{pid}").exists()]

        await until(are_gone)


async def test_a_broken_delta_takes_only_its_own_specialist_down(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    shutil.copytree(DEMO.parent, demo, ignore=shutil.ignore_patterns("__pycache__"))
    payload = next((demo / "sql.delta").glob("*.safetensors"))
    data = bytearray(payload.read_bytes())
    data[len(data) // 2] ^= 1
    payload.write_bytes(data)
    async with running_fleet(tmp_path, demo / "fleet.yaml") as fleet:
        failure = await refusal(fleet.ask("a", model="sql"))
        assert failure.code is StatusCode.FAILED_PRECONDITION
        assert failure.reason == "ERROR_REASON_SPECIALIST_UNLOADABLE"
        assert failure.metadata == {"model": "sql"}
        assert payload.name in failure.message

        assert (await fleet.ask("What is 3 plus 4?")).decision.model == "arithmetic"


async def test_what_a_late_answer_computed_is_all_paid_for(tmp_path: Path) -> None:
    async with running_fleet(tmp_path) as fleet:
        chance = random.Random(3)

        async def ask(task: str, timeout_s: float) -> None:
            request = inference_pb2.GenerateRequest(prompt=TASKS[task].generate(chance).prompt)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await fleet.inference.Generate(request, timeout=timeout_s)

        await asyncio.gather(*(ask(task, 60) for task in TASKS))  # their weights are built
        await asyncio.gather(
            *(ask(chance.choice(list(TASKS)), chance.uniform(0.01, 0.4)) for _ in range(60))
        )

        async def is_paid() -> bool:
            report = await fleet.costs.GetCostReport(cost_pb2.GetCostReportRequest())
            busy = sum(one.busy_cost_nano_usd for one in report.workers)
            # Each row is a whole number of nano-dollars.
            return abs(report.total.cost_nano_usd - busy) <= report.total.request_count

        async with asyncio.timeout(30):
            await until(is_paid)
