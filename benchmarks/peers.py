"""Reload on demand: one vLLM that holds one specialist at a time, as model swappers do.

First come, first served: the model of the oldest waiting request is next, once nothing is left to
do for the one that is there; what comes meanwhile for it is served too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind

from benchmarks.engines import CONTEXT_TOKEN_COUNT, start_plain
from benchmarks.loads import Served, State
from benchmarks.traffic import Request
from model_pool.engine import Message, Role
from model_pool.vllm.prompt import PromptReader


class OnDemand:
    """Implements `loads.Answerer`. changes_s: what each change of the model took."""

    def __init__(self, checkpoints: dict[str, Path], *, starts_anew: bool) -> None:
        """starts_anew: an engine for each change; else `reload_weights` in the running one."""
        self.changes_s: list[float] = []
        self._checkpoints = checkpoints
        self._starts_anew = starts_anew
        self._reader = PromptReader.open(next(iter(checkpoints.values())))
        self._llm: Any = None
        self._live: str | None = None
        self._running_count = 0
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}  # who came first, first
        self._changed = asyncio.Event()
        self._is_closing = False
        self._numbers = count()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve until the block ends. The first model is there when it begins."""
        self._live, checkpoint = next(iter(self._checkpoints.items()))
        self._llm = await asyncio.to_thread(start_plain, checkpoint)
        turns = asyncio.create_task(self._take_turns())
        try:
            yield
        finally:
            self._is_closing = True
            self._changed.set()
            await turns
            self._reader.close()
            await asyncio.to_thread(self._llm.shutdown)

    async def answer(self, request: Request, served: Served, now_s: Callable[[], float]) -> None:
        """Wait for the model, then generate."""
        prompt_ids = await self._reader.read(
            [Message(Role.USER, request.prompt)], CONTEXT_TOKEN_COUNT
        )
        if self._live == request.model:
            self._running_count += 1
        else:
            granted = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(request.model, []).append(granted)
            self._changed.set()
            await granted  # counted as running by whoever granted it
        try:
            await self._generate(prompt_ids, request.token_count, served, now_s)
        finally:
            self._running_count -= 1
            self._changed.set()

    def state(self) -> State:
        """Changes that have ended, and what runs."""
        return State(len(self.changes_s), sum(self.changes_s), self._running_count)

    async def _generate(
        self, prompt_ids: list[int], limit: int, served: Served, now_s: Callable[[], float]
    ) -> None:
        params = SamplingParams(
            temperature=0, max_tokens=limit, output_kind=RequestOutputKind.DELTA
        )
        name = f"on-demand-{next(self._numbers)}"
        async for output in self._llm.generate(tokens_input(prompt_ids), params, name):
            served.token_count += len(output.outputs[0].token_ids)
            served.first_s = min(served.first_s, now_s())
        served.end_s = now_s()

    async def _take_turns(self) -> None:
        while not self._is_closing:
            await self._changed.wait()
            self._changed.clear()
            if self._running_count or not self._waiting or self._is_closing:
                continue
            model = next(iter(self._waiting))
            self._live = None
            began = time.perf_counter()
            await self._change_to(self._checkpoints[model])
            self.changes_s.append(time.perf_counter() - began)
            self._live = model
            for granted in self._waiting.pop(model):
                if not granted.done():
                    granted.set_result(None)
                    self._running_count += 1

    async def _change_to(self, checkpoint: Path) -> None:
        if self._starts_anew:
            await asyncio.to_thread(self._llm.shutdown)
            self._llm = await asyncio.to_thread(start_plain, checkpoint)
            return
        await self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint)})
        await self._llm.reset_prefix_cache()
