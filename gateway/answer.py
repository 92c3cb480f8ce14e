"""An answer as it comes, whoever gives it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from deltafleet.v1 import inference_pb2, worker_pb2


@dataclass(slots=True)  # freezing it takes three times as long as making it: each token has one
class AnswerPiece:
    """Some more of an answer, from a worker or a closed API; all but text is cumulative.

    mean_logprob: in the last piece of a worker that was asked for it, as in worker.proto.
    """

    text: str
    prompt_token_count: int
    output_token_count: int
    cost_nano_usd: int
    finish_reason: inference_pb2.FinishReason.ValueType
    busy_s: float = 0.0
    worker: str = ""
    weights_digest: str = ""
    mean_logprob: float | None = None
    queue_s: float | None = None  # waited before the first step; None: not known
    is_promised: bool = False  # nothing of its cost beyond the piece's before it is spent yet


class Source(Protocol):
    """What answers one request."""

    def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """Stream the answer, within the call's deadline.

        The first piece is empty: there is a place for it, and all that could refuse it has not.
        """
        ...
