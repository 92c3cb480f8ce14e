"""One job of the vLLM engine under way, from its arrival to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from model_pool.engine import Job, Piece, Usage, Weights
from model_pool.errors import FleetError
from model_pool.turns import Claim
from model_pool.vllm.answer import AnswerProgress
from model_pool.vllm.meter import Account


class Answer:
    """One job under way. A task of its own fills `pieces`: a caller who reads slowly delays no
    one, neither the place in the batch nor the next turn.
    """

    def __init__(
        self,
        job: Job,
        weights: Weights,
        claim: Claim,
        request_id: str,
        entered_s: float,
        on_end: Callable[[Usage], None] | None,
    ) -> None:
        self.job = job
        self.on_end = on_end
        self.progress: AnswerProgress | None = None
        self.weights = weights
        self.claim = claim
        self.request_id = request_id
        self.entered_s = entered_s
        self.queue_s: float | None = None  # until its first turn
        self.turn_count = 0
        self.account = Account()
        self.pieces: asyncio.Queue[Piece | FleetError] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    async def next_piece(self) -> Piece:
        """Raises the failure that came in its place."""
        delivered = await self.pieces.get()
        if isinstance(delivered, FleetError):
            raise delivered
        return delivered
