"""Fixtures of the tests that run a real vLLM. They need `.venv-vllm` (tools/vllm-env)."""

from __future__ import annotations

import gc
import importlib.util
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from engine.asking import Fleet, StartEngine
from engine.tiny_models import CONTEXT_TOKEN_COUNT, architectures, train_tokenizer

NEEDS_VLLM = (
    "test_contract.py",
    "test_escalation.py",
    "test_lora.py",
    "test_openai_server.py",
    "test_recipe.py",
    "test_serving.py",
    "test_storm.py",
    "test_switching.py",
)
HAS_VLLM = importlib.util.find_spec("vllm") is not None
collect_ignore = [] if HAS_VLLM else [*NEEDS_VLLM]

if HAS_VLLM:
    with warnings.catch_warnings():  # its imports warn of deprecated things: no fault of ours
        warnings.simplefilter("ignore")
        import model_pool.vllm.engine  # noqa: F401

# The tests look at live weights: functions are sent into vLLM's workers.
os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
# The suite that every engine passes, written once.
pytest.register_assert_rewrite("engine.test_engine_contract")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The same for what vLLM imports later, and for the sockets that it leaves to the collector."""
    for item in items:
        if HAS_VLLM and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_sessionfinish() -> None:
    """vLLM 0.32.0 closes no ZeroMQ context: collect them here, where that is not an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A tiny Llama with two deltas. vLLM's CPU attention wants heads of at least 32."""
    from vllm_engine.probing import write_fleet

    config = architectures(len(train_tokenizer()))["llama"]
    config.head_dim = 32
    return write_fleet(tmp_path_factory.mktemp("vllm-fleet"), config)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def process(fleet: Fleet) -> AsyncIterator[Any]:
    """One vLLM for all tests that need none of their own: starting one takes many seconds."""
    from vllm_engine.probing import start_process

    process = await start_process(fleet.base)
    yield process
    await process.stop()


@pytest.fixture
def start_engine(process: Any, fleet: Fleet) -> StartEngine:
    """`async with start_engine(**options) as engine`: a new engine on the shared vLLM, with the
    base loaded. Its limits are its own; stopping it leaves vLLM running.
    """
    from vllm_engine.probing import Kept

    from model_pool.vllm.engine import VllmEngine

    async def start(*_: Any, **__: Any) -> Any:
        return Kept(process)

    @asynccontextmanager
    async def started(**options: Any) -> AsyncIterator[VllmEngine]:
        options = {"context_token_count": CONTEXT_TOKEN_COUNT, **options}
        engine = VllmEngine(fleet.base, start_process=start, **options)
        await engine.start()
        try:
            await engine.load(fleet.weights["base"])
            yield engine
        finally:
            await engine.stop()

    return started
