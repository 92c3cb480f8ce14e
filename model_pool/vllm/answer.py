"""One answer of vLLM's: from its outputs to our pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_pool.engine import FinishReason, Piece, Usage
from model_pool.errors import EngineFailed
from model_pool.text_stream import StopSearch

_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class AnswerProgress:
    """Reads vLLM's RequestOutputs, each with what is new since the one before (0.32.0)."""

    def __init__(self, weights_digest: str, prompt_token_count: int, stop: Sequence[str]) -> None:
        self._weights_digest = weights_digest
        self._prompt_token_count = prompt_token_count
        self._output_token_count = 0
        self._search = StopSearch(stop)
        self.is_finished = False

    def computed_token_count(self, output: Any) -> int:
        """Tokens that this output is the result of: the prompt's, where no cache had them, and
        those of the answer. Call before `accept`.
        """
        count = len(output.outputs[0].token_ids)
        if self._output_token_count == 0:
            count += self._prompt_token_count - (output.num_cached_tokens or 0)
        return count

    def accept(self, output: Any, busy_s: float) -> Piece | None:
        """The piece that the output makes visible, if any. The last one sets is_finished.

        Raises EngineFailed for an answer that did not end by itself or is not the weights' own.
        """
        completion = output.outputs[0]
        self._output_token_count += len(completion.token_ids)
        text = self._search.add(completion.text)
        finish_reason = FinishReason.STOP if self._search.is_stopped else None
        if output.finished and finish_reason is None:
            finish_reason = self._finish_reason(completion)
            text += self._search.finish()
        if not text and finish_reason is None:
            return None
        self.is_finished = finish_reason is not None
        usage = Usage(self._prompt_token_count, self._output_token_count, busy_s)
        return Piece(text, usage, self._weights_digest, finish_reason)

    def _finish_reason(self, completion: Any) -> FinishReason:
        versions = {span.version for span in completion.weight_versions or ()}
        if versions - {self._weights_digest}:
            raise EngineFailed(f"weights {sorted(versions)} made an answer of one model")
        if completion.finish_reason not in _FINISH_REASONS:
            raise EngineFailed(f"the answer was broken off: {completion.finish_reason}")
        return _FINISH_REASONS[completion.finish_reason]
