"""The thread that computes: one step of one model at a time, in turn."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet

import torch

from model_pool.active_job import ActiveJob
from model_pool.engine import Piece
from model_pool.engine_time import US_PER_S, Activity, EngineTime
from model_pool.errors import EngineFailed
from model_pool.fair_line import FairLine
from model_pool.model_batch import Advance, ModelBatch
from model_pool.token_work import TokenWork

logger = logging.getLogger(__name__)

Delivery = tuple[ActiveJob, Piece | EngineFailed | None]  # None: cancelled, and out


class StepLoop:
    """Continuous batching (Yu et al. 2022, Orca, OSDI): jobs join and leave between steps.

    A step reads prompts or adds a token to answers, never both. Its seconds are divided among its
    jobs by the tokens that it computed for each, so the shares of all jobs add up to the time in
    which the engine computed. Who waits for a place gets it as `fair_line.py` says, whichever model
    it waits for; `model_batch.py` has those with a place.
    """

    def __init__(
        self,
        *,
        max_running_count: int,
        eos_ids: AbstractSet[int],
        thread_count: int | None,
        time: EngineTime,
        work: TokenWork,
        hand_over: Callable[[Sequence[Delivery]], None],
    ) -> None:
        """time: told when a step computes, and read. work: sums the steps up. hand_over: called on
        the step thread, once per step that has something to tell.
        """
        self._max_running_count = max_running_count
        self._eos_ids = eos_ids
        self._thread_count = thread_count
        self._time = time
        self._work = work
        self._hand_over = hand_over
        self._changed = threading.Condition()
        self._inbox: list[ActiveJob] = []
        self._is_stopping = False
        self._line = FairLine[ActiveJob]()
        self._turns: deque[ModelBatch] = deque()
        self._thread = threading.Thread(target=self._run, name="engine-steps", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the current step; every job left fails. Blocks until the thread has ended."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, job: ActiveJob) -> None:
        """Queue a prepared job. Raises EngineFailed once the loop is stopping."""
        with self._changed:
            if self._is_stopping:
                raise EngineFailed("the engine has stopped")
            self._inbox.append(job)
            self._changed.notify()

    def _run(self) -> None:
        if self._thread_count is not None:
            torch.set_num_threads(self._thread_count)
        try:
            with torch.inference_mode():
                while self._take_in():
                    self._turn()
        except Exception:
            logger.exception("engine_thread_failed")
        finally:
            self._fail_everything()

    def _take_in(self) -> bool:
        """Move new jobs to the line, waiting while there is nothing to do.

        Returns False when the loop is to end.
        """
        with self._changed:
            self._changed.wait_for(self._has_work)
            new_jobs, self._inbox = self._inbox, []
            for job in new_jobs:
                self._line.add(job, job.ask)
            return not self._is_stopping

    def _has_work(self) -> bool:
        return bool(self._is_stopping or self._inbox or self._turns or self._line)

    def _batch_of(self, job: ActiveJob) -> ModelBatch:
        for batch in self._turns:
            if batch.model is job.model:
                return batch
        batch = ModelBatch(job.model)
        self._turns.append(batch)
        return batch

    def _turn(self) -> None:
        """Give the next model its step: prompts of newcomers, then one token for every row."""
        self._drop_ended()
        self._admit()
        if not self._turns:
            return
        batch = self._turns[0]
        self._turns.rotate(-1)
        if batch.has_prompts:
            self._step(batch, batch.prefill, self._work.read)
        self._drop(batch)
        if batch.has_rows:
            self._step(batch, batch.decode, self._work.answered)

    def _drop_ended(self) -> None:
        if cancelled := [job for job in self._line if job.is_cancelled]:
            for job in cancelled:
                self._line.remove(job)
            self._hand_over([(job, None) for job in cancelled])
        for batch in self._turns:
            self._drop(batch)
        self._turns = deque(batch for batch in self._turns if not batch.is_empty)

    def _drop(self, batch: ModelBatch) -> None:
        if cancelled := batch.drop_ended():
            self._end(cancelled)
            self._hand_over([(job, None) for job in cancelled])

    def _end(self, jobs: Sequence[ActiveJob]) -> None:
        for job in jobs:
            self._line.end(job)

    def _admit(self) -> None:
        """Fill free places, in the line's order."""
        counts: dict[Hashable, int] = {one.model: one.running_count for one in self._turns}
        for _ in range(self._max_running_count - sum(counts.values())):
            job = self._line.take(load=lambda model: counts.get(model, 0))
            if job is None:
                return
            self._batch_of(job).admit(job)
            counts[job.model] = counts.get(job.model, 0) + 1

    def _step(
        self,
        batch: ModelBatch,
        compute: Callable[[], list[Advance]],
        count: Callable[[float, int], None],
    ) -> None:
        """Compute, measure, charge and hand over. A failure ends this model's running jobs.

        count: takes the step's seconds and tokens.
        """
        began_us = self._time.begin(Activity.COMPUTING)
        try:
            advances = compute()
            for advance in advances:
                advance.job.accept(advance.token_id, self._eos_ids, advance.log_probability)
        except Exception:
            logger.exception("engine_step_failed", extra={"model": batch.model.weights.model})
            seconds, failed = self._end_step(began_us), batch.drop_running()
            for job in failed:
                job.charge(seconds / len(failed), began_us / US_PER_S)
            self._end(failed)
            self._fail(failed, "the computing of this model failed")
            return
        seconds = self._end_step(began_us)
        count(seconds, sum(advance.computed_token_count for advance in advances))
        self._settle(advances, began_us / US_PER_S, seconds)

    def _end_step(self, began_us: int) -> float:
        return (self._time.end(Activity.COMPUTING) - began_us) / US_PER_S

    def _settle(self, advances: list[Advance], began_s: float, seconds: float) -> None:
        """Divide the step's seconds by tokens, then tell each job what it may show."""
        total = sum(advance.computed_token_count for advance in advances)
        deliveries: list[Delivery] = []
        for advance in advances:
            advance.job.charge(seconds * advance.computed_token_count / total, began_s)
            self._line.use(advance.job, 1)
            if advance.job.finish_reason is not None:
                self._line.end(advance.job)
            if (piece := advance.job.take_piece()) is not None:
                deliveries.append((advance.job, piece))
        if deliveries:
            self._hand_over(deliveries)

    def _fail(self, jobs: Sequence[ActiveJob], message: str) -> None:
        if jobs:
            self._hand_over([(job, EngineFailed(message)) for job in jobs])

    def _fail_everything(self) -> None:
        with self._changed:
            self._is_stopping = True
            running = [job for batch in self._turns for job in batch.jobs()]
            left = [*self._inbox, *self._line, *running]
            self._inbox = []
            self._turns.clear()
        self._fail(left, "the engine has stopped")
