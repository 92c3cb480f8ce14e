"""The embedded engine: transformers models in this process, on a CPU or any torch device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers.utils import logging as library_logging

from model_pool.active_job import ActiveJob, LoadedModel
from model_pool.base_model import BaseModel
from model_pool.durations import Durations
from model_pool.engine import EngineReport, Job, Piece, Usage, Weights
from model_pool.engine_time import US_PER_S, Activity, EngineTime
from model_pool.errors import (
    EngineFailed,
    FleetError,
    PoolSaturated,
    PromptTooLong,
    UnknownModel,
)
from model_pool.fair_line import Ask, count_ahead
from model_pool.line_forecast import LineForecast
from model_pool.step_loop import Delivery, StepLoop
from model_pool.token_work import TokenWork

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# When a full queue may have room again: an answer takes about as long.
RETRY_AFTER_S = 1.0


class TransformersEngine:
    """Implements `engine.Engine` with continuous batching and one key-value cache per model.

    In float32 an answer is the same alone and in any batch; in 16-bit types rounding may differ.
    Three threads work for it, none of them the event loop's: one computes steps, one builds
    weights, one reads prompts.
    """

    def __init__(
        self,
        base: Path,
        *,
        max_running_count: int = 32,
        max_queued_count: int = 1024,
        dtype: str = "float32",
        device: str = "cpu",
        thread_count: int | None = None,
        context_token_count: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """max_running_count: jobs in one step, over all models; further ones queue.

        max_queued_count: beyond it `generate` raises PoolSaturated. thread_count: CPU threads of
        one step; None leaves torch's choice. context_token_count: None takes the base's; at most
        that. clock: seconds from any origin, called on several threads.
        """
        self._base_path = base
        self._max_running_count = max_running_count
        self._max_queued_count = max_queued_count
        self._dtype = DTYPES[dtype]
        self._device = torch.device(device)
        self._thread_count = thread_count
        self._context_token_count = context_token_count
        self._models: dict[str, LoadedModel] = {}
        self._jobs: set[ActiveJob] = set()
        self._is_idle = asyncio.Event()
        self._time = EngineTime(clock)
        self._work = TokenWork()
        self._changes = Durations()
        self._line = LineForecast()
        self._base: BaseModel | None = None
        self._steps: StepLoop | None = None
        self._loader = ThreadPoolExecutor(1, "engine-load")
        self._reader = ThreadPoolExecutor(1, "engine-read")

    @property
    def context_token_count(self) -> int:
        """Longest prompt plus answer, in tokens. Known once started."""
        base, _ = self._started()
        return self._context_token_count or base.context_token_count

    async def start(self) -> None:
        """Open the base and start the step thread.

        Raises MergeError (the weights), ValueError (config, tokenizer or context are unfit).
        """
        _log_as_we_do()
        self._loop = asyncio.get_running_loop()
        base = await self._loop.run_in_executor(
            self._loader, BaseModel, self._base_path, self._dtype, self._device
        )
        if (self._context_token_count or 0) > base.context_token_count:
            raise ValueError(
                f"context_token_count {self._context_token_count} is more than the base's "
                f"{base.context_token_count}"
            )
        self._base = base
        self._steps = StepLoop(
            max_running_count=self._max_running_count,
            eos_ids=base.eos_ids,
            thread_count=self._thread_count,
            time=self._time,
            work=self._work,
            hand_over=self._hand_over,
        )
        self._steps.start()

    def size_bytes(self, weights: Weights) -> int:
        """Memory of the parameters in the engine's dtype; the same for every delta and adapter."""
        base, _ = self._started()
        return base.size_bytes

    async def load(self, weights: Weights) -> None:
        """Build the weights beside those that serve. Replaces a model of the same name: its
        running jobs end on the weights that they began with.
        """
        base, _ = self._started()
        module = await self._loop.run_in_executor(self._loader, self._timed_build, base, weights)
        self._started()  # it may have stopped meanwhile
        self._models[weights.model] = LoadedModel(weights, module)

    async def unload(self, model: str) -> None:
        """Forget the weights; their memory goes when no job uses them any more."""
        self._models.pop(model, None)

    async def generate(
        self, job: Job, on_end: Callable[[Usage], None] | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Stream the answer. on_end: see Engine.

        Raises PromptTooLong, UnknownModel (not loaded), PoolSaturated (the queue is full, or too
        long for the time that the job has left) before the first piece; EngineFailed when the
        computing failed.
        """
        try:
            active = self._enter(job, on_end)
        except FleetError:
            if on_end is not None:
                on_end(Usage(0, 0, 0.0))
            raise
        try:
            await self._read(active)
            self._started()[1].submit(active)
        except BaseException:
            self._leave(active)
            active.end()
            raise
        try:
            piece = await _next_piece(active)
            waited_s = piece.usage.queue_s or 0.0
            self._line.started(job.priority.name, active.ahead_count, waited_s)
            while piece.finish_reason is None:
                yield piece
                piece = await _next_piece(active)
            run_s = self._now_s() - active.entered_s - (piece.usage.queue_s or 0.0)
            self._line.ended(job.model, run_s)
            yield piece
        finally:
            active.is_cancelled = True
            if active.usage.queue_s is None:
                waited_s = self._now_s() - active.entered_s
                self._line.gave_up(job.priority.name, active.ahead_count, waited_s)
            self._leave(active)

    def report(self) -> EngineReport:
        """What is loaded, queued and running, and the seconds since the engine was made."""
        running_count = sum(job.is_running for job in self._jobs)
        return EngineReport(
            loaded=tuple(model.weights for model in self._models.values()),
            running_count=running_count,
            queued_count=len(self._jobs) - running_count,
            spent=self._time.spent(),
            work=self._work,
            changes=self._changes,
        )

    async def drain(self) -> None:
        """Return when no job is queued or running."""
        while self._jobs:
            self._is_idle.clear()
            await self._is_idle.wait()

    async def died(self) -> str:
        """Never returns: what fails, fails for one model's requests."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def stop(self) -> None:
        """Free everything. Jobs that are not finished end with EngineFailed."""
        self._base = None
        self._models.clear()
        await asyncio.to_thread(self._stop_threads)

    def _started(self) -> tuple[BaseModel, StepLoop]:
        if self._base is None or self._steps is None:
            raise EngineFailed("the engine is not started")
        return self._base, self._steps

    def _timed_build(self, base: BaseModel, weights: Weights) -> object:
        began_us = self._time.begin(Activity.LOADING)
        try:
            return base.build(weights)
        finally:
            self._changes.add((self._time.end(Activity.LOADING) - began_us) / US_PER_S)

    def _enter(self, job: Job, on_end: Callable[[Usage], None] | None) -> ActiveJob:
        """Count the job as queued. Raises UnknownModel, PoolSaturated."""
        self._started()
        if job.model not in self._models:
            raise UnknownModel(f"the model {job.model} is not loaded", model=job.model)
        queued_count = sum(not active.is_running for active in self._jobs)
        if queued_count >= self._max_queued_count:
            raise PoolSaturated(
                "the engine's queue is full",
                retry_after_s=RETRY_AFTER_S,
                queued_count=queued_count,
            )
        ahead_count = self._ahead_count(job)
        active = ActiveJob(job, self._models[job.model], self._now_s(), on_end, ahead_count)
        self._jobs.add(active)
        return active

    def _now_s(self) -> float:
        """On the clock of `ActiveJob.charge`."""
        return self._time.now_us() / US_PER_S

    def _ahead_count(self, job: Job) -> int:
        """How many go before it. Raises PoolSaturated where they leave it too little time."""
        waiting = [one.ask for one in self._jobs if not one.is_running]
        count = count_ahead(waiting, Ask(caller=job.caller, priority=job.priority))
        self._line.check(job.priority.name, job.model, count, job.time_left_s)
        return count

    async def _read(self, active: ActiveJob) -> None:
        """Read the prompt off the event loop. Raises PromptTooLong."""
        base, _ = self._started()
        context = self.context_token_count
        prompt_ids = await self._loop.run_in_executor(
            self._reader, base.encode, active.job.messages
        )
        if len(prompt_ids) >= context:
            raise PromptTooLong(
                f"the prompt has {len(prompt_ids)} tokens, and the context {context} with the "
                "answer",
                prompt_token_count=len(prompt_ids),
                context_token_count=context,
            )
        active.prepare(prompt_ids, context, base.decode)

    def _hand_over(self, deliveries: Sequence[Delivery]) -> None:
        """Called on the step thread: one wake-up of the event loop for the whole step."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, deliveries)

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        for active, delivered in deliveries:
            if delivered is None:
                active.end()
                continue
            active.pieces.put_nowait(delivered)
            if isinstance(delivered, EngineFailed) or delivered.finish_reason is not None:
                self._leave(active)
                active.end()

    def _leave(self, active: ActiveJob) -> None:
        self._jobs.discard(active)
        if not self._jobs:
            self._is_idle.set()

    def _stop_threads(self) -> None:
        if self._steps is not None:
            self._steps.stop()
        self._loader.shutdown(cancel_futures=True)
        self._reader.shutdown(cancel_futures=True)


def _log_as_we_do() -> None:
    """The library writes lines of its own form to standard error; its errors belong in our log."""
    library_logging.disable_default_handler()
    library_logging.enable_propagation()
    library_logging.set_verbosity_error()


async def _next_piece(active: ActiveJob) -> Piece:
    """At once if one is ready. Raises EngineFailed."""
    delivered = await active.pieces.get()
    if isinstance(delivered, EngineFailed):
        raise delivered
    return delivered
