"""One answer of vLLM's: from its outputs, over all its turns, to our pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from model_pool.engine import FinishReason, Piece, Sampling, Usage
from model_pool.errors import EngineFailed
from model_pool.log_probability_mean import LogProbabilityMean
from model_pool.text_stream import TextStream
from model_pool.vllm.meter import Computed

_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class AnswerProgress:
    """Reads vLLM's RequestOutputs, each with what is new since the one before (0.32.0).

    Text is made here and not in vLLM: an answer that is broken off and goes on later is several
    requests there, and a character may begin in one and end in the next.
    """

    def __init__(
        self,
        weights_digest: str,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        decode: Callable[[Sequence[int]], str],
        *,
        live_digest: str | None = None,
        wants_log_probability: bool = False,
    ) -> None:
        """sampling: its max_output_token_count fits the context. decode: token ids -> text.
        live_digest: of the weights that must be live, where it is not the answer's own.
        wants_log_probability: vLLM was asked for its tokens' too.
        """
        self._weights_digest = weights_digest
        self._live_digest = live_digest or weights_digest
        self._prompt_token_count = len(prompt_ids)
        self._limit_count = sampling.max_output_token_count
        self._text = TextStream(decode, sampling.stop)
        self._log_probability = LogProbabilityMean() if wants_log_probability else None
        self._is_first_output = True
        self.token_ids = list(prompt_ids)
        self.is_finished = False

    @property
    def left_count(self) -> int:
        """Tokens that the answer may still have."""
        return self._limit_count - (len(self.token_ids) - self._prompt_token_count)

    def begin_turn(self) -> list[int]:
        """What vLLM goes on from: the prompt and the answer so far."""
        self._is_first_output = True
        return list(self.token_ids)

    def computed(self, output: Any) -> Computed:
        """What this output is the result of: tokens before it that no cache had, and its own. Call
        before `accept`.
        """
        count = len(output.outputs[0].token_ids)
        if not self._is_first_output:
            return Computed(0, count)
        return Computed(len(self.token_ids) - (output.num_cached_tokens or 0), max(0, count - 1))

    def accept(self, output: Any, busy_s: float, queue_s: float | None = None) -> Piece | None:
        """The piece that the output makes visible, if any. The last one sets is_finished.

        Raises EngineFailed for an answer that did not end by itself or is not the weights' own.
        """
        self._is_first_output = False
        completion = output.outputs[0]
        self.token_ids += completion.token_ids
        finish_reason = self._finish_reason(completion) if output.finished else None
        text, read_count = self._read(completion.token_ids, finish_reason)
        self._weigh(completion, read_count)
        if self._text.is_stopped:
            finish_reason = FinishReason.STOP
        if not text and finish_reason is None:
            return None
        self.is_finished = finish_reason is not None
        usage, mean = self.usage(busy_s, queue_s), None
        if self._log_probability is not None and self.is_finished:
            mean = self._log_probability.value
        return Piece(text, usage, self._weights_digest, finish_reason, mean)

    def usage(self, busy_s: float, queue_s: float | None = None) -> Usage:
        """So far. busy_s: as the engine's meter has it. queue_s: see Usage."""
        output_count = len(self.token_ids) - self._prompt_token_count
        return Usage(self._prompt_token_count, output_count, busy_s, queue_s)

    def _read(
        self, token_ids: Sequence[int], finish_reason: FinishReason | None
    ) -> tuple[str, int]:
        """What may be shown now, and how many of these tokens are the answer's, its end included.

        Those behind a stop text are not: vLLM makes a few more before we have found it.
        """
        # The token that ends an answer is no text.
        visible = token_ids[:-1] if finish_reason is FinishReason.STOP else token_ids
        text = ""
        for count, token_id in enumerate(visible, 1):
            text += self._text.add(token_id)
            if self._text.is_stopped:
                return text, count
        return text + self._text.finish() if finish_reason else text, len(token_ids)

    def _weigh(self, completion: Any, count: int) -> None:
        """Add the log-probabilities of the first `count` of its tokens.

        vLLM's list has for each token what it tells of it and of others, by their ids.
        """
        if self._log_probability is None:
            return
        told = completion.logprobs or ()
        for place, token_id in enumerate(completion.token_ids[:count]):
            one = told[place].get(token_id) if place < len(told) else None
            self._log_probability.add(None if one is None else one.logprob)

    def _finish_reason(self, completion: Any) -> FinishReason:
        versions = {span.version for span in completion.weight_versions or ()}
        if versions - {self._live_digest}:
            raise EngineFailed(f"weights {sorted(versions)} made an answer of one model")
        if completion.finish_reason not in _FINISH_REASONS:
            raise EngineFailed(f"the answer was broken off: {completion.finish_reason}")
        return _FINISH_REASONS[completion.finish_reason]
