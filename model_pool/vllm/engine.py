"""The engine of production: vLLM, with many specialists on one set of live weights."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from merge_on_load import Checkpoint
from merge_on_load.errors import MergeError
from model_pool.durations import Durations
from model_pool.engine import EngineReport, Job, Piece, Usage, Weights
from model_pool.engine_time import US_PER_S, Activity, EngineTime
from model_pool.errors import EngineFailed, FleetError, PoolSaturated, UnknownModel, WorkerLost
from model_pool.fair_line import Ask, count_ahead
from model_pool.line_forecast import LineForecast
from model_pool.switching import Policy
from model_pool.turns import Claim, Turns
from model_pool.vllm.answer import AnswerProgress
from model_pool.vllm.deltas import DeltaShelf, read_needs
from model_pool.vllm.held import HeldSpecialists
from model_pool.vllm.meter import BusyMeter
from model_pool.vllm.options import Needs, VllmOptions
from model_pool.vllm.process import VllmProcess
from model_pool.vllm.prompt import PromptReader
from model_pool.vllm.under_way import Answer

logger = logging.getLogger(__name__)

# How often it is looked whether vLLM lives.
DEATH_INTERVAL_S = 0.5
LINE = "line"  # of all who wait, in the forecast
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
        needs: Needs,
    ) -> Awaitable[VllmProcess]: ...


class VllmEngine:
    """Implements `engine.Engine`. Many models may be loaded; the weights of one are live.

    Jobs of the live weights run together. `switching.py` decides when those of another model have
    their turn: what runs is then broken off, and goes on from the prompt and the answer so far when
    it is its model's turn again. A sampled answer with a seed is not broken off: its random numbers
    could not go on where they were. LoRA adapters run on the base's live weights, all in one batch.
    """

    def __init__(
        self,
        base: Path,
        options: VllmOptions | None = None,
        *,
        specialists: Sequence[Path] = (),
        policy: Policy | None = None,
        max_running_count: int = 32,
        max_queued_count: int = 1024,
        context_token_count: int | None = None,
        thread_count: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        start_process: StartProcess = VllmProcess.start,
    ) -> None:
        """specialists: deltas and LoRA adapters that may be loaded, most wanted first: vLLM makes
        room for them at its start. policy: its batch limit is replaced by max_running_count, jobs
        in one step; further ones queue. max_queued_count: beyond it `generate` raises
        PoolSaturated. context_token_count: None takes the base's. thread_count: of one step on a
        CPU; None leaves vLLM's choice. clock: seconds from any origin.
        """
        self._base_path = base
        self._options = options or VllmOptions()
        self._specialists = specialists
        self._max_running_count = max_running_count
        self._max_queued_count = max_queued_count
        self._context_token_count = context_token_count
        self._thread_count = thread_count
        self._clock = clock
        self._start_process = start_process
        self._time = EngineTime(clock)
        self._meter = BusyMeter(self._time)
        self._turns = Turns(
            replace(policy or Policy(), batch_limit_count=max_running_count),
            self._make_live,
            clock=clock,
            pace=self._meter.pace,
        )
        self._loaded: dict[str, Weights] = {}
        self._answers: set[Answer] = set()
        self._used: Counter[Weights] = Counter()  # by answers under way
        self._answer_count = 0
        self._is_idle = asyncio.Event()
        self._switch_count = 0
        self._changes = Durations()
        self._line = LineForecast()
        self._prompts: PromptReader | None = None
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
        self._base = await asyncio.to_thread(Checkpoint.open, self._base_path)
        self._shelf = DeltaShelf(self._base)
        self._prompts = await asyncio.to_thread(PromptReader.open, self._base_path)
        self._process = await self._start_process(
            self._base_path,
            self._options,
            running_count=self._max_running_count,
            context_token_count=self._context_token_count,
            thread_count=self._thread_count,
            needs=await asyncio.to_thread(read_needs, self._specialists),
        )
        self._held = HeldSpecialists(self._shelf, self._process)
        if self._options.enable_prefix_caching:
            self._turns.set_room(self._process.cache_token_count)

    def size_bytes(self, weights: Weights) -> int:
        """The base: its tensors, which are the one live set. A specialist: its prepared delta, or
        its adapter.

        Raises MergeError (no delta there).
        """
        self._started()
        if weights.delta is None and weights.lora is None:
            return self._base.size_bytes
        return self._shelf.size_bytes(weights)

    async def load(self, weights: Weights) -> None:
        """Check the weights and hold them ready for their turn. What runs goes on meanwhile.

        Replaces a model of the same name: its queued and running jobs keep the former weights.
        Raises MergeError, EngineFailed.
        """
        self._started()
        # In a task of its own: where the caller is cancelled, what was prepared is not lost.
        await asyncio.shield(asyncio.create_task(self._load(weights)))

    async def unload(self, model: str) -> None:
        """Forget the weights. They may stay live until others are, but nobody can ask them."""
        self._loaded.pop(model, None)
        self._let_go()

    async def generate(
        self, job: Job, on_end: Callable[[Usage], None] | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Stream the answer. on_end: see Engine.

        Raises PromptTooLong, InvalidParameter (the chat template refuses the messages),
        UnknownModel (not loaded), PoolSaturated (the queue is full, or too long for the time that
        the job has left) before the first piece; EngineFailed when the computing failed, WorkerLost
        when vLLM died.
        """
        try:
            answer = self._enter(job, on_end)
        except FleetError:
            if on_end is not None:
                on_end(Usage(0, 0, 0.0))
            raise
        task = answer.task = asyncio.create_task(self._serve(answer), name=answer.request_id)
        task.add_done_callback(lambda _: self._leave(answer))
        try:
            piece = await answer.next_piece()
            while piece.finish_reason is None:
                yield piece
                piece = await answer.next_piece()
            self._learn(answer, piece.usage)
            yield piece
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _learn(self, answer: Answer, usage: Usage) -> None:
        """What an answer takes of the engine is what those behind it wait for, whoever has a turn;
        how long one waited says more of the turns.
        """
        self._line.took(LINE, usage.busy_s)
        took_s = self._clock() - answer.entered_s
        self._line.ended(answer.job.model, took_s - (answer.queue_s or 0.0))

    def report(self) -> EngineReport:
        """What is loaded, queued and running, and the seconds since the engine was made."""
        return EngineReport(
            loaded=tuple(self._loaded.values()),
            running_count=self._meter.running_count,
            queued_count=len(self._answers) - self._meter.running_count,
            spent=self._time.spent(),
            work=self._meter.work,
            switch_count=self._switch_count,
            changes=self._changes,
        )

    async def drain(self) -> None:
        """Return when no job is queued or running."""
        while self._answers:
            self._is_idle.clear()
            await self._is_idle.wait()

    async def died(self) -> str:
        """Return what happened, once vLLM has ended by itself."""
        while (process := self._process) is None or not process.is_dead:  # noqa: ASYNC110 # vLLM tells nobody
            await asyncio.sleep(DEATH_INTERVAL_S)
        return "vLLM has died; its log says why"

    async def stop(self) -> None:
        """Free everything. Jobs that are not finished end with EngineFailed."""
        process, self._process = self._process, None
        self._loaded.clear()
        await self._turns.close(EngineFailed("the engine has stopped"))
        if process is not None:
            self._held.close()
        for answer in self._answers:
            if answer.task is not None:
                answer.task.cancel()
        await self.drain()
        if self._prompts is not None:
            self._prompts.close()
        if process is not None:
            await process.stop()

    async def _load(self, weights: Weights) -> None:
        with self._time.within(Activity.LOADING):
            await self._held.hold(weights)
        self._started()  # it may have stopped meanwhile
        self._loaded[weights.model] = weights
        self._let_go()

    def _let_go(self) -> None:
        """Keep what a loaded model or an answer under way needs."""
        self._held.keep_only({*self._loaded.values(), *self._used})

    def _started(self) -> VllmProcess:
        if self._process is None:
            raise EngineFailed("the engine is not started")
        return self._process

    async def _make_live(self, weights: Weights) -> None:
        """Called while nothing runs. Raises EngineFailed; where the delta is at fault, what was
        live still is.
        """
        began_us = self._time.begin(Activity.SWITCHING)
        try:
            await self._started().switch(self._held.prepared(weights), weights.digest)
            self._switch_count += 1
        except MergeError as error:
            raise EngineFailed(f"{weights.model} cannot be made live: {error}") from error
        except FleetError:
            raise
        except Exception as error:
            self._turns.forget_live()
            logger.exception("engine_switch_failed", extra={"model": weights.model})
            raise self._failure(f"{weights.model} could not be made live") from error
        finally:
            self._changes.add((self._time.end(Activity.SWITCHING) - began_us) / US_PER_S)

    def _failure(self, what: str) -> FleetError:
        """WorkerLost where vLLM is gone: then another worker may answer."""
        if self._process is not None and self._process.is_dead:
            return WorkerLost("the worker's engine has died", retry_after_s=RETRY_AFTER_S)
        return EngineFailed(what)

    def _enter(self, job: Job, on_end: Callable[[Usage], None] | None) -> Answer:
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
        waiting = [one.claim.ask for one in self._answers if one.queue_s is None]
        ahead_count = count_ahead(waiting, Ask(caller=job.caller, priority=job.priority))
        self._line.check(LINE, job.model, ahead_count, job.time_left_s)
        self._answer_count += 1
        weights = self._loaded[job.model]
        claim = Claim(
            self._held.live_weights(weights),
            priority=job.priority,
            deadline_s=self._clock() + job.time_left_s if job.time_left_s < math.inf else math.inf,
            preemptible=job.sampling.temperature == 0 or job.sampling.seed is None,
            left_count=job.sampling.max_output_token_count,
            caller=job.caller,
            must_move=True,
        )
        request_id = f"{job.request_id}-{self._answer_count}"
        answer = Answer(job, weights, claim, request_id, self._clock(), on_end)
        self._answers.add(answer)
        self._used[weights] += 1
        return answer

    async def _serve(self, answer: Answer) -> None:
        """From the prompt to the last piece, or to the failure in its place."""
        try:
            progress = answer.progress = await self._begin(answer)
            while not progress.is_finished:
                async with self._turns.place(answer.claim):
                    await self._compute(answer, progress)
        except FleetError as failure:
            answer.pieces.put_nowait(failure)
        except Exception:
            logger.exception("engine_answer_failed", extra={"model": answer.weights.model})
            answer.pieces.put_nowait(self._failure("the computing of this model failed"))

    def _leave(self, answer: Answer) -> None:
        """The answer's task has ended. Nobody waits for the piece, or the engine has stopped."""
        if answer.task is not None and answer.task.cancelled():
            answer.pieces.put_nowait(EngineFailed("the engine has stopped"))
        if answer.on_end is not None:
            busy_s, progress = answer.account.busy_s, answer.progress
            answer.on_end(progress.usage(busy_s) if progress else Usage(0, 0, busy_s))
        self._answers.discard(answer)
        self._used[answer.weights] -= 1
        if not self._used[answer.weights]:
            del self._used[answer.weights]
            self._let_go()
        if not self._answers:
            self._is_idle.set()

    async def _begin(self, answer: Answer) -> AnswerProgress:
        """Read the prompt. Raises PromptTooLong, InvalidParameter."""
        assert self._prompts is not None
        context_count, sampling = self.context_token_count, answer.job.sampling
        prompt_ids = await self._prompts.read(answer.job.messages, context_count)
        limit = min(sampling.max_output_token_count, context_count - len(prompt_ids))
        answer.claim.left_count, answer.claim.unread_count = limit, len(prompt_ids)
        sampling = replace(sampling, max_output_token_count=limit)
        return AnswerProgress(
            answer.weights.digest,
            prompt_ids,
            sampling,
            self._prompts.decode,
            live_digest=answer.claim.weights.digest,
            wants_log_probability=answer.job.wants_log_probability,
        )

    async def _compute(self, answer: Answer, progress: AnswerProgress) -> None:
        """Fill `pieces`, to the end or to the end of this turn. The weights are live.

        Raises EngineFailed, vLLM's errors.
        """
        claim, account = answer.claim, answer.account
        answer.turn_count += 1
        if answer.queue_s is None:
            answer.queue_s = self._clock() - answer.entered_s
        outputs = self._started().generate(
            progress.begin_turn(),
            replace(answer.job.sampling, max_output_token_count=progress.left_count),
            salt=f"{claim.weights.digest}-{answer.weights.digest}",
            request_id=f"{answer.request_id}-{answer.turn_count}",
            adapter=self._held.adapter(answer.weights),
            wants_log_probabilities=answer.job.wants_log_probability,
            rank=claim.rank,
        )
        last: Piece | None = None
        self._meter.enter(account)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    # The outputs of one step come in one turn of the event loop. It is settled in
                    # the next, before this goes on.
                    self._meter.note(account, progress.computed(output))
                    asyncio.get_running_loop().call_soon(self._meter.settle)
                    await asyncio.sleep(0)
                    piece = progress.accept(output, account.busy_s, answer.queue_s)
                    if progress.is_finished:
                        last = piece
                    elif piece is not None:
                        answer.pieces.put_nowait(piece)
                    claim.token_count = len(progress.token_ids)
                    claim.left_count, claim.unread_count = progress.left_count, 0
                    self._turns.moved(claim, len(output.outputs[0].token_ids))
                    if progress.is_finished:
                        break
        finally:
            self._meter.leave(account, is_finished=progress.is_finished)
            if last is not None:  # it tells all that the request is charged with
                usage = progress.usage(account.busy_s, answer.queue_s)
                answer.pieces.put_nowait(replace(last, usage=usage))
