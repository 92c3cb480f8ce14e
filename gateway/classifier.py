"""Prompt → task, probability, in scope or not. It never fails."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Protocol

from gateway.encoder import BatchedEncoder
from gateway.routing.head import Decision
from gateway.routing.labelled import OUT_OF_SCOPE
from gateway.routing.task_router import FULL, Reading, TaskRouter
from gateway.routing.words import Floats

CACHE = "cache"  # beside the steps: the full one, its row remembered
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Classification:
    """What a prompt is for.

    task: the likeliest one. similarity: its probability. is_in_scope: as the threshold tells.
    scores: every task's probability, the likeliest first. decided_by: which step told it: "static",
    "full", "cache", "fallback". note: why an earlier step than usual had to. row: float32[dim], the
    unit embedding, where the full encoder made one.
    """

    task: str
    similarity: float
    is_in_scope: bool
    scores: tuple[tuple[str, float], ...]
    decided_by: str = ""
    note: str = ""
    row: Floats | None = field(default=None, compare=False, repr=False)


class Classifier(Protocol):
    """Tells what a prompt is for."""

    async def classify(self, prompt: str) -> Classification:
        """What the prompt is for."""
        ...


class Cascade:
    """The static step; where that is unclear, the full one within its time budget.

    Where the full encoder fails or is too slow, the static step's decision stands and says so.
    """

    def __init__(
        self,
        router: TaskRouter,
        encoder: BatchedEncoder,
        *,
        budget_s: float,
        wants_rows: bool = False,
    ) -> None:
        """wants_rows: every prompt's, because estimates of quality need them."""
        self._router = router
        self._encoder = encoder
        self._budget_s = budget_s
        self._wants_rows = wants_rows

    async def classify(self, prompt: str) -> Classification:
        """What the prompt is for."""
        reading = self._router.read(prompt)
        quick = self._router.quick(reading)
        is_clear = self._router.is_clear(reading, quick)
        if is_clear and not self._wants_rows:
            return classified(quick)
        try:
            row, step = await self._row(reading)
        except TimeoutError:
            note = f"the encoder took longer than its {self._budget_s * 1e3:g} ms"
            return classified(quick, note=note)
        except Exception:  # whatever a broken encoder raises: a decision never fails a request
            log.exception("encoder_failed")
            return classified(quick, note="the encoder failed")
        if is_clear:
            return classified(quick, row=row)
        return classified(self._router.thorough(reading, row), step=step, row=row)

    async def _row(self, reading: Reading) -> tuple[Floats, str]:
        tokens, row = self._encoder.remembered(reading.text)
        if row is not None:
            return row, CACHE
        encoding = asyncio.create_task(self._encoder.encode(tokens))
        encoding.add_done_callback(_seen)
        async with asyncio.timeout(self._budget_s):
            # Shielded: what comes too late for this request is remembered for the next.
            return await asyncio.shield(encoding), FULL


def _seen(encoding: asyncio.Task[Floats]) -> None:
    """A failure that came too late to matter is not news."""
    if not encoding.cancelled():
        encoding.exception()


def classified(
    decision: Decision, *, step: str = "", note: str = "", row: Floats | None = None
) -> Classification:
    """A decision as the gateway's other rooms see it. step: which it was, where not its own."""
    found = sorted(
        (-probability, task)
        for task, probability in decision.scores().items()
        if task != OUT_OF_SCOPE
    )
    scores = tuple((task, -negative) for negative, task in found)
    task, similarity = scores[0]
    step = step or decision.decided_by
    return Classification(task, similarity, decision.is_in_scope, scores, step, note, row)
