"""vLLM started the two ways that are compared: as anybody does, and as our worker does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from vllm import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from model_pool.vllm.options import VllmOptions
from model_pool.vllm.process import VllmProcess

# Eager: nothing that is measured here depends on torch.compile, whose first start takes minutes.
OPTIONS = VllmOptions(
    dtype="bfloat16", kv_cache_memory_bytes=512 << 20, block_size=32, enforce_eager=True
)
RUNNING_COUNT = 32
CONTEXT_TOKEN_COUNT = 512


@asynccontextmanager
async def plain_vllm(checkpoint: Path, **changes: Any) -> AsyncIterator[Any]:
    """An AsyncLLM with vLLM's own loader and none of our parts. changes: to its arguments."""
    llm = await asyncio.to_thread(start_plain, checkpoint, **changes)
    try:
        yield llm
    finally:
        await asyncio.to_thread(llm.shutdown)


def start_plain(checkpoint: Path, **changes: Any) -> Any:
    """Blocks until vLLM runs."""
    chosen = {
        "model": str(checkpoint),
        "max_model_len": CONTEXT_TOKEN_COUNT,
        "max_num_seqs": RUNNING_COUNT,
        "disable_log_stats": True,
        **OPTIONS.model_dump(exclude_none=True),
        **changes,
    }
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**chosen))


@asynccontextmanager
async def our_vllm(base: Path, thread_count: int | None = None) -> AsyncIterator[VllmProcess]:
    """vLLM as our worker starts it: the base streamed in, ready for switches."""
    process = await start_ours(base, thread_count)
    try:
        yield process
    finally:
        await process.stop()


async def start_ours(base: Path, thread_count: int | None = None) -> VllmProcess:
    """thread_count: of one step; None leaves vLLM's choice."""
    return await VllmProcess.start(
        base,
        OPTIONS,
        running_count=RUNNING_COUNT,
        context_token_count=CONTEXT_TOKEN_COUNT,
        thread_count=thread_count,
    )


async def inside(llm: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call function(worker, *arguments) in vLLM's worker."""
    return (await llm.collective_rpc(function, args=arguments))[0]
