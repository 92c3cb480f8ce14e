"""Everything at once, on two workers with vLLM behind a real gateway.

500 requests over seven specialists, the base and a corrupt delta, some cancelled, some with hardly
any time, one worker killed: every finished answer is what the model says alone, every failure has
the reason that belongs to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
import yaml

from deltafleet.v1 import inference_pb2
from support.alone import answers_alone, draw_prompts, unpack_specialist
from support.fleet import DEMO, Fleet, failure_of, running_fleet

REQUEST_COUNT = 500
CLIENT_COUNT = 32
KILL_AFTER = 150
PROMPTS_PER_TASK = 12
LONGEST = 64
BROKEN = "broken"
# float32: with fewer bits an answer may depend on who else is in the batch.
VLLM = {
    "dtype": "float32",
    "kv_cache_memory_bytes": 256 << 20,
    "block_size": 32,
    "enforce_eager": True,
}


@dataclass(frozen=True)
class Asked:
    """One request. text: what its model says alone, None for the corrupt one."""

    model: str
    prompt: str
    text: str | None
    timeout_s: float = 120.0
    is_cancelled: bool = False


@dataclass
class Outcome:
    """What became of it: an answer, a reason, or neither where the caller went away."""

    asked: Asked
    text: str | None = None
    reason: str = ""
    request_id: str = ""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, str]]:
    """(model, prompt, what it says)."""
    directory = tmp_path_factory.mktemp("alone")
    found = []
    prompts = draw_prompts(random.Random(500), PROMPTS_PER_TASK)
    for task, drawn in prompts.items():
        answers = answers_alone(unpack_specialist(task, directory), drawn, LONGEST)
        found += [(task, prompt, answer) for prompt, answer in zip(drawn, answers, strict=True)]
    some = [drawn[0] for drawn in prompts.values()]
    answers = answers_alone(DEMO.parent / "base", some, LONGEST)
    return found + [("base", prompt, answer) for prompt, answer in zip(some, answers, strict=True)]


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    """The demo fleet with a specialist more, whose delta was altered after packing."""
    home = tmp_path / "fleet"
    shutil.copytree(DEMO.parent, home, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copytree(home / "sql.delta", home / "broken.delta")
    payload = max((home / "broken.delta").glob("*.safetensors"), key=lambda one: one.stat().st_size)
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    document = yaml.safe_load((home / "fleet.yaml").read_text())
    document["specialists"][BROKEN] = {
        "description": "never answers",
        "delta": "broken.delta",
        "examples": ["this is asked by name only"],
    }
    (home / "fleet.yaml").write_text(yaml.safe_dump(document))
    return home / "fleet.yaml"


def draw(expected: list[tuple[str, str, str]]) -> list[Asked]:
    rng = random.Random(7)
    asked = []
    for number in range(REQUEST_COUNT):
        model, prompt, text = rng.choice(expected)
        kind = number % 10
        if kind == 3:
            asked.append(Asked(BROKEN, prompt, None))
        elif kind == 5:
            asked.append(Asked(model, prompt, text, timeout_s=rng.uniform(0.01, 0.5)))
        else:
            asked.append(Asked(model, prompt, text, is_cancelled=kind == 8))
    return asked


async def ask(fleet: Fleet, asked: Asked) -> Outcome:
    """Stream one answer; a caller who cancels goes away at the first text."""
    outcome, texts = Outcome(asked), []
    call = fleet.inference.StreamGenerate(
        inference_pb2.GenerateRequest(
            prompt=asked.prompt, model=asked.model, max_output_token_count=LONGEST
        ),
        timeout=asked.timeout_s,
    )
    try:
        async for event in call:
            if event.HasField("text"):
                texts.append(event.text)
                if asked.is_cancelled:
                    call.cancel()
                    return outcome
            elif event.HasField("summary"):
                outcome.text = "".join(texts)
                outcome.request_id = event.summary.request_id
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        # The client's own clock may end the call before the server says so.
        outcome.reason = failure.reason or failure.code.name
    return outcome


def kill_a_worker(fleet: Fleet) -> None:
    """With everything that it started, as a node that goes away does."""
    worker = psutil.Process(fleet.worker_pids()[0])
    for process in (*worker.children(recursive=True), worker):
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)


async def storm(fleet: Fleet, asked: list[Asked]) -> list[Outcome]:
    waiting, outcomes = iter(asked), []

    async def client() -> None:
        for one in waiting:
            outcomes.append(await ask(fleet, one))
            if len(outcomes) == KILL_AFTER:
                kill_a_worker(fleet)

    await asyncio.gather(*(client() for _ in range(CLIENT_COUNT)))
    return outcomes


async def test_a_storm(
    tmp_path: Path, fleet_file: Path, expected: list[tuple[str, str, str]]
) -> None:
    overrides = {
        "pool__engine": "vllm",
        "pool__vllm": VLLM,
        "pool__workers": [{"name": "one"}, {"name": "two"}],
        "pool__max_running_count": 8,
        "pool__switching": {"max_wait_s": 0.3, "amortisation": 2, "drain_s": 0.1},
    }
    async with running_fleet(tmp_path, fleet_file, **overrides) as fleet:
        outcomes = await storm(fleet, draw(expected))

    assert len(outcomes) == REQUEST_COUNT
    reasons = Counter[str]()
    for outcome in outcomes:
        asked = outcome.asked
        reasons[outcome.reason or ("answered" if outcome.text is not None else "cancelled")] += 1
        if outcome.text is not None:
            assert outcome.text == asked.text, asked
        elif asked.model == BROKEN:
            assert outcome.reason == "ERROR_REASON_SPECIALIST_UNLOADABLE"
        elif outcome.reason:
            # Who has too little time is told so at the end of it, or before.
            late = {"ERROR_REASON_DEADLINE_EXCEEDED", "ERROR_REASON_POOL_SATURATED"}
            short = asked.timeout_s < 1 and outcome.reason in late | {"DEADLINE_EXCEEDED"}
            assert short or outcome.reason == "ERROR_REASON_WORKER_LOST", (outcome.reason, asked)
        else:
            assert asked.is_cancelled, asked
    # Only those who had a first word from the killed worker may be told that it was lost.
    assert reasons["ERROR_REASON_WORKER_LOST"] <= CLIENT_COUNT
    assert reasons["answered"] >= REQUEST_COUNT // 2
    assert_ledger_has(tmp_path / "ledger.sqlite3", outcomes)


def assert_ledger_has(path: Path, outcomes: list[Outcome]) -> None:
    """Every answer that was told its end has one row, answered."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        rows = ledger.execute("select request_id, outcome from requests").fetchall()
    answered = {one.request_id for one in outcomes if one.request_id}
    recorded = [request_id for request_id, outcome in rows if outcome == "answered"]
    assert len(recorded) == len(set(recorded))
    assert answered <= set(recorded)
