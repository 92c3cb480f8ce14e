"""One job inside the embedded engine: what it was given, and how far its answer is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from model_pool.engine import FinishReason, Job, Piece, Usage, Weights
from model_pool.errors import EngineFailed
from model_pool.fair_line import Ask
from model_pool.log_probability_mean import LogProbabilityMean
from model_pool.text_stream import TextStream
from model_pool.token_choice import Chooser


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """Weights that are in memory. Jobs hold it, so unloading waits for none and breaks none."""

    weights: Weights
    module: Any


class ActiveJob:
    """The step thread advances it; the event loop reads `pieces`.

    is_running: it has a place in a batch. is_cancelled: nobody waits for it any more.
    """

    def __init__(
        self,
        job: Job,
        model: LoadedModel,
        entered_s: float,
        on_end: Callable[[Usage], None] | None,
        ahead_count: int = 0,
    ) -> None:
        """entered_s: when it was queued, on the clock of `charge`. on_end: see Engine.

        ahead_count: how many of those that waited then go before it.
        """
        self.job = job
        self._on_end = on_end
        self.model = model
        self.pieces: asyncio.Queue[Piece | EngineFailed] = asyncio.Queue()
        self.prompt_ids: Sequence[int] = ()
        self.last_token_id = -1
        self.chooser = Chooser.of(job.sampling)
        self.is_running = False
        self.is_cancelled = False
        self.finish_reason: FinishReason | None = None
        self._limit = 0
        self._output_token_count = 0
        self._busy_s = 0.0
        self.entered_s = entered_s
        self.ahead_count = ahead_count
        self._queue_s: float | None = None
        self._new_text = ""
        self._log_probability = LogProbabilityMean()

    def prepare(
        self,
        prompt_ids: Sequence[int],
        context_token_count: int,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """Set the prompt, and clamp the answer to what the context leaves."""
        self.prompt_ids = prompt_ids
        room = context_token_count - len(prompt_ids)
        self._limit = min(self.job.sampling.max_output_token_count, room)
        self._text = TextStream(decode, self.job.sampling.stop)

    def accept(
        self, token_id: int, eos_ids: AbstractSet[int], log_probability: float | None = None
    ) -> None:
        """Take the next token of the answer; sets finish_reason when it is the last."""
        self.last_token_id = token_id
        self._log_probability.add(log_probability)
        self._output_token_count += 1
        if token_id in eos_ids:
            self._new_text = self._text.finish()
            self.finish_reason = FinishReason.STOP
            return
        self._new_text = self._text.add(token_id)
        if not self._text.is_stopped and self._output_token_count >= self._limit:
            self._new_text += self._text.finish()
            self.finish_reason = FinishReason.LENGTH
        if self._text.is_stopped:
            self.finish_reason = FinishReason.STOP

    def charge(self, seconds: float, step_began_s: float) -> None:
        """Add this job's share of a step."""
        self._busy_s += seconds
        if self._queue_s is None:
            self._queue_s = max(0.0, step_began_s - self.entered_s)

    def take_piece(self) -> Piece | None:
        """What the last token made visible, if anything."""
        if not self._new_text and self.finish_reason is None:
            return None
        mean = None
        if self.finish_reason is not None and self.job.wants_log_probability:
            mean = self._log_probability.value
        digest = self.model.weights.digest
        return Piece(self._new_text, self.usage, digest, self.finish_reason, mean)

    @property
    def ask(self) -> Ask:
        """What it is in the line. Its prompt counts once it was read."""
        return Ask(
            lane=self.model,
            caller=self.job.caller,
            priority=self.job.priority,
            prompt_token_count=len(self.prompt_ids),
            output_limit_count=self._limit,
        )

    @property
    def usage(self) -> Usage:
        """So far."""
        counts = (len(self.prompt_ids), self._output_token_count)
        return Usage(*counts, self._busy_s, self._queue_s)

    def end(self) -> None:
        """Nothing of it computes any more: tell, once, what it used."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self.usage)
