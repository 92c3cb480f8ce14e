"""A plain vLLM server, which knows nothing of us, as the only worker of a fleet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import openai
import pytest
import pytest_asyncio
import yaml
from engine.reference import Reference
from pydantic import SecretStr

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2
from model_pool.openai_member import OpenAIMember
from model_pool.pool import Pool
from model_pool.settings import OpenAIServer
from support.fleet import DEMO, Fleet, refusal, running_fleet, until

KEY = "4711"
THEIRS = "tiny-base"
PROMPTS = ("What is 3 plus 4?", "The red house", "Which glaciers of Patagonia calve into a lake?")
LONGEST = 24
# float32: with fewer bits an answer may depend on who else is in the batch.
OPTIONS = (
    *("--dtype", "float32", "--kv-cache-memory-bytes", str(256 << 20), "--block-size", "32"),
    *("--enforce-eager", "--served-model-name", THEIRS, "--api-key", KEY),
)
ENVIRONMENT = {
    "VLLM_PLUGINS": "",  # none of ours
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url() -> AsyncIterator[str]:
    """Where vLLM's own server answers."""
    port = free_port()
    # What `vllm serve` starts; that command itself asks for a version that the CPU build lacks.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(DEMO.parent / "base"), "--host", "127.0.0.1", "--port", str(port)),
        *OPTIONS,
        env=os.environ | ENVIRONMENT,
    )
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY)

    async def is_listening() -> bool:
        assert process.returncode is None, "vLLM ended"
        with contextlib.suppress(openai.APIConnectionError):
            await client.models.list()
            return True
        return False

    try:
        async with client:
            await until(is_listening)
        yield str(client.base_url)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A fleet whose every model is that one."""
    directory = tmp_path_factory.mktemp("served")
    openai_section = {"url": url, "models": {"base": THEIRS, "sql": THEIRS}}
    document = {
        "base": {"path": "nowhere"},
        "specialists": {"sql": {"description": "d", "delta": "nowhere", "examples": ["a table"]}},
        "pool": {
            "workers": [{"name": "plain", "openai": openai_section}],
            "hardware": {"usd_per_hour": 1},
        },
    }
    (directory / "fleet.yaml").write_text(yaml.safe_dump(document))
    async with running_fleet(directory, directory / "fleet.yaml", member_key_plain=int(KEY)) as it:
        yield it


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_an_answer_is_the_servers_own(served: Fleet, url: str, prompt: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        direct = await client.chat.completions.create(
            model=THEIRS,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=LONGEST,
        )
    answer = await served.stream(prompt, model="base", max_output_token_count=LONGEST)

    assert answer.text == direct.choices[0].message.content
    assert answer.summary.prompt_token_count == direct.usage.prompt_tokens
    assert answer.summary.output_token_count == direct.usage.completion_tokens
    assert answer.summary.worker == "plain"
    assert answer.summary.weights_digest == f"openai:{THEIRS}"
    assert answer.summary.cost_nano_usd > 0
    is_cut = direct.choices[0].finish_reason == "length"
    assert (answer.summary.finish_reason == inference_pb2.FINISH_REASON_LENGTH) is is_cut


async def test_it_tells_how_probable_its_answers_are(served: Fleet, url: str) -> None:
    section = OpenAIServer(url=url, models={"base": THEIRS})
    member = OpenAIMember("plain", section, SecretStr(KEY), price_nano_usd_per_hour=1)
    reference = Reference(DEMO.parent / "base")
    pool = Pool([member], limit_count=4, wait_s=60, on_change=lambda: None)
    pool.start()
    try:
        for prompt in PROMPTS:
            question = routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content=prompt)
            asked = worker_pb2.RunRequest(
                model="base",
                messages=[question],
                max_output_token_count=LONGEST,
                top_p=1,
                wants_logprob=True,
            )
            async with pool.lease("base") as lease, aclosing(lease.generate(asked, 60)) as pieces:
                last = [piece async for piece in pieces][-1]
            expected = reference.mean_log_probability(prompt, reference.greedy_ids(prompt, LONGEST))
            assert last.mean_logprob == pytest.approx(expected, abs=1e-3)
    finally:
        await pool.stop()


async def test_stop_and_seed_reach_it(served: Fleet) -> None:
    whole = await served.ask(PROMPTS[1], model="base", max_output_token_count=LONGEST)
    cut = await served.ask(PROMPTS[1], model="base", stop=[whole.text[3:6]])
    asked = {"model": "base", "temperature": 1.5, "max_output_token_count": LONGEST}
    drawn = [(await served.ask(PROMPTS[1], seed=seed, **asked)).text for seed in (3, 3, 4)]

    assert cut.text == whole.text.partition(whole.text[3:6])[0]
    assert cut.summary.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert drawn[0] == drawn[1] != drawn[2]


async def test_what_does_not_fit_its_context(served: Fleet) -> None:
    failure = await refusal(served.ask("a red house " * 1000, model="base"))
    assert failure.reason == "ERROR_REASON_PROMPT_TOO_LONG"

    clamped = await served.ask(
        PROMPTS[1], model="base", temperature=2, seed=1, max_output_token_count=10_000
    )
    assert 0 < clamped.summary.output_token_count < 512
