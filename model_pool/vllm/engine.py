"""The engine of production: vLLM, with many specialists on one set of live weights."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from merge_on_load import Checkpoint
from merge_on_load.errors import MergeError
from model_pool.engine import EngineReport, Job, Piece, Weights
from model_pool.errors import EngineFailed, FleetError, PoolSaturated, UnknownModel
from model_pool.vllm.answer import AnswerProgress
from model_pool.vllm.meter import BusyMeter
from model_pool.vllm.options import VllmOptions
from model_pool.vllm.process import VllmProcess
from model_pool.vllm.prompt import PromptReader
from model_pool.vllm.turns import Turns

logger = logging.getLogger(__name__)

# When a full queue may have room again: an answer takes about as long.
RETRY_AFTER_S = 1.0


class StartProcess(Protocol):
    """How vLLM is started: `VllmProcess.start`."""

    def __call__(
        self,
        base: Path,
        options: VllmOptions,
        *,
        running_count: int,
        context_token_count: int | None,
        thread_count: int | None,
    ) -> Awaitable[VllmProcess]: ...


class _Answer:
    """One job under way. A task of its own fills `pieces`: a caller who reads slowly delays no
    one, neither the place in the batch nor the next turn.
    """

    def __init__(self, job: Job, weights: Weights, request_id: str) -> None:
        self.job = job
        self.weights = weights
        self.request_id = request_id
        self.pieces: asyncio.Queue[Piece | FleetError] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None


class VllmEngine:
    """Implements `engine.Engine`. Many models may be loaded; the weights of one are live.

    Jobs of the live weights run together; the others wait for their turn (`turns.py`), and
    weights are switched in place when nothing runs.
    """

    def __init__(
        self,
        base: Path,
        options: VllmOptions | None = None,
        *,
        max_running_count: int = 32,
        max_queued_count: int = 1024,
        context_token_count: int | None = None,
        thread_count: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        start_process: StartProcess = VllmProcess.start,
    ) -> None:
        """max_running_count: jobs in one step; further ones queue. max_queued_count: beyond it
        `generate` raises PoolSaturated. context_token_count: None takes the base's. thread_count:
        of one step on a CPU; None leaves vLLM's choice. clock: seconds from any origin.
        """
        self._base_path = base
        self._options = options or VllmOptions()
        self._max_running_count = max_running_count
        self._max_queued_count = max_queued_count
        self._context_token_count = context_token_count
        self._thread_count = thread_count
        self._clock = clock
        self._start_process = start_process
        self._meter = BusyMeter(clock)
        self._turns = Turns(max_running_count, self._make_live)
        self._prompts: PromptReader | None = None
        self._loaded: dict[str, Weights] = {}
        self._answers: set[_Answer] = set()
        self._answer_count = 0
        self._is_idle = asyncio.Event()
        self._load_s = 0.0
        self._process: VllmProcess | None = None

    @property
    def context_token_count(self) -> int:
        """Longest prompt plus answer, in tokens. Known once started."""
        return self._started().context_token_count

    async def start(self) -> None:
        """Start vLLM on the base.

        Raises MergeError (the weights), ValueError (tokenizer or options are unfit), RuntimeError
        (vLLM did not start: its log says why).
        """
        checkpoint = await asyncio.to_thread(Checkpoint.open, self._base_path)
        self._base_size_bytes = checkpoint.size_bytes
        self._prompts = await asyncio.to_thread(PromptReader.open, self._base_path)
        self._process = await self._start_process(
            self._base_path,
            self._options,
            running_count=self._max_running_count,
            context_token_count=self._context_token_count,
            thread_count=self._thread_count,
        )

    def size_bytes(self, weights: Weights) -> int:
        """The base: its tensors, which are the one live set. A specialist: its delta's files."""
        self._started()
        if weights.delta is None:
            return self._base_size_bytes
        return sum(file.stat().st_size for file in weights.delta.rglob("*") if file.is_file())

    async def load(self, weights: Weights) -> None:
        """Check the weights and make them live, when what runs on others has ended.

        Replaces a model of the same name: its queued and running jobs keep the former weights.
        Raises MergeError, EngineFailed.
        """
        self._started()
        await self._turns.take(weights)
        self._turns.leave()
        self._started()  # it may have stopped meanwhile
        self._loaded[weights.model] = weights

    async def unload(self, model: str) -> None:
        """Forget the weights. They may stay live until others are, but nobody can ask them."""
        self._loaded.pop(model, None)

    async def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """Stream the answer.

        Raises PromptTooLong, InvalidParameter (the chat template refuses the messages),
        UnknownModel (not loaded), PoolSaturated (queue full) before the first piece; EngineFailed
        when the computing failed.
        """
        answer = self._enter(job)
        task = answer.task = asyncio.create_task(self._serve(answer), name=answer.request_id)
        task.add_done_callback(lambda _: self._leave(answer))
        try:
            piece = await _next_piece(answer)
            while piece.finish_reason is None:
                yield piece
                piece = await _next_piece(answer)
            yield piece
        finally:
            task.cancel()
            await asyncio.wait([task])

    def report(self) -> EngineReport:
        """What is loaded, queued and running, and the seconds since `start`."""
        return EngineReport(
            loaded=tuple(self._loaded.values()),
            running_count=self._meter.running_count,
            queued_count=len(self._answers) - self._meter.running_count,
            busy_s=self._meter.busy_s,
            load_s=self._load_s,
        )

    async def drain(self) -> None:
        """Return when no job is queued or running."""
        while self._answers:
            self._is_idle.clear()
            await self._is_idle.wait()

    async def stop(self) -> None:
        """Free everything. Jobs that are not finished end with EngineFailed."""
        process, self._process = self._process, None
        self._loaded.clear()
        await self._turns.close(EngineFailed("the engine has stopped"))
        for answer in self._answers:
            if answer.task is not None:
                answer.task.cancel()
        await self.drain()
        if self._prompts is not None:
            self._prompts.close()
        if process is not None:
            await process.stop()

    def _started(self) -> VllmProcess:
        if self._process is None:
            raise EngineFailed("the engine is not started")
        return self._process

    async def _make_live(self, weights: Weights) -> None:
        """Called while nothing runs. Raises MergeError: what was live still is; EngineFailed."""
        began = self._clock()
        try:
            await self._started().switch(weights.delta, weights.digest)
        except (MergeError, FleetError):
            raise
        except Exception as error:
            self._turns.forget_live()
            logger.exception("engine_switch_failed", extra={"model": weights.model})
            raise EngineFailed(f"{weights.model} could not be made live") from error
        finally:
            self._load_s += self._clock() - began

    def _enter(self, job: Job) -> _Answer:
        """Count the job as queued. Raises UnknownModel, PoolSaturated."""
        self._started()
        if job.model not in self._loaded:
            raise UnknownModel(f"the model {job.model} is not loaded", model=job.model)
        queued_count = len(self._answers) - self._meter.running_count
        if queued_count >= self._max_queued_count:
            raise PoolSaturated(
                "the engine's queue is full",
                retry_after_s=RETRY_AFTER_S,
                queued_count=queued_count,
            )
        self._answer_count += 1
        request_id = f"{job.request_id}-{self._answer_count}"
        answer = _Answer(job, self._loaded[job.model], request_id)
        self._answers.add(answer)
        return answer

    async def _serve(self, answer: _Answer) -> None:
        """From the prompt to the last piece, or to the failure in its place."""
        try:
            assert self._prompts is not None
            prompt_ids = await self._prompts.read(answer.job.messages, self.context_token_count)
            await self._take_turn(answer.weights)
            try:
                await self._compute(answer, prompt_ids)
            finally:
                self._turns.leave()
        except FleetError as failure:
            answer.pieces.put_nowait(failure)
        except Exception:
            logger.exception("engine_answer_failed", extra={"model": answer.weights.model})
            answer.pieces.put_nowait(EngineFailed("the computing of this model failed"))

    def _leave(self, answer: _Answer) -> None:
        """The answer's task has ended. Nobody waits for the piece, or the engine has stopped."""
        if answer.task is not None and answer.task.cancelled():
            answer.pieces.put_nowait(EngineFailed("the engine has stopped"))
        self._answers.discard(answer)
        if not self._answers:
            self._is_idle.set()

    async def _take_turn(self, weights: Weights) -> None:
        """Wait until the weights are live and a place is free. Raises EngineFailed."""
        try:
            await self._turns.take(weights)
        except MergeError as error:
            raise EngineFailed(f"{weights.model} cannot be made live again: {error}") from error

    async def _compute(self, answer: _Answer, prompt_ids: list[int]) -> None:
        """Fill `pieces` to the end. The weights are live. Raises EngineFailed, vLLM's errors."""
        process, job = self._started(), answer.job
        room = process.context_token_count - len(prompt_ids)
        limit = min(job.sampling.max_output_token_count, room)
        outputs = process.generate(
            prompt_ids,
            replace(job.sampling, max_output_token_count=limit),
            salt=answer.weights.digest,
            request_id=answer.request_id,
        )
        progress = AnswerProgress(answer.weights.digest, len(prompt_ids), job.sampling.stop)
        account = self._meter.open()
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    # The outputs of one step come in one turn of the event loop. It is settled in
                    # the next, before this goes on.
                    self._meter.note(account, progress.computed_token_count(output))
                    asyncio.get_running_loop().call_soon(self._meter.settle)
                    await asyncio.sleep(0)
                    if (piece := progress.accept(output, account.busy_s)) is not None:
                        answer.pieces.put_nowait(piece)
                    if progress.is_finished:
                        break
        finally:
            self._meter.close(account, is_finished=progress.is_finished)


async def _next_piece(answer: _Answer) -> Piece:
    delivered = await answer.pieces.get()
    if isinstance(delivered, FleetError):
        raise delivered
    return delivered
