"""Prompt → task, similarity, in scope or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gateway.encoder import Encoder, Rows
from gateway.routing.gloss import Gloss
from gateway.routing.head import Head
from gateway.routing.labelled import OUT_OF_SCOPE
from gateway.routing.task_router import read_text


@dataclass(frozen=True, slots=True)
class Classification:
    """What a prompt is most like.

    task: the nearest one. similarity: cosine, -1 to 1, or of a fitted router the task's
    probability. is_in_scope: as the threshold tells. scores: every task's similarity, the nearest
    first. decided_by: which step told it: "static", "full", "cache", "fallback". note: why an
    earlier step than usual had to. row: float32[dim], the unit embedding, where the full encoder
    made one.
    """

    task: str
    similarity: float
    is_in_scope: bool
    scores: tuple[tuple[str, float], ...]
    decided_by: str = ""
    note: str = ""
    row: Rows | None = field(default=None, compare=False, repr=False)


class Classifier(Protocol):
    """Tells what a prompt is for."""

    async def classify(self, prompt: str) -> Classification:
        """What the prompt is most like."""
        ...


class FittedClassifier:
    """A router that `deltafleet router fit` made."""

    def __init__(self, encoder: Encoder, head: Head) -> None:
        """encoder: what the head was fitted with."""
        self._encoder = encoder
        self._head = head
        self._gloss = Gloss()

    async def start(self) -> None:
        """Raises BadRouter where the head was fitted with another encoder."""
        width = (await self._encoder.encode([""])).shape[1]
        self._head.check_width(width)

    async def classify(self, prompt: str) -> Classification:
        """What the prompt is most like."""
        row = (await self._encoder.encode([read_text(prompt, self._gloss)]))[0]
        decision = self._head.decide(row)
        listed = zip(self._head.tasks, decision.probabilities.tolist(), strict=True)
        scores = sorted(
            ((task, score) for task, score in listed if task != OUT_OF_SCOPE),
            key=lambda score: (-score[1], score[0]),
        )
        return Classification(*scores[0], decision.is_in_scope, tuple(scores))


class NearestExamples:
    """Nearest examples by embedding.

    A task's similarity is the mean cosine over its nearest_count nearest examples: one odd example
    neither wins nor loses a prompt.
    """

    def __init__(self, encoder: Encoder, *, min_similarity: float, nearest_count: int) -> None:
        self._encoder = encoder
        self._min_similarity = min_similarity
        self._nearest_count = nearest_count
        self._examples: dict[str, Rows] = {}

    async def start(self, examples: Mapping[str, Sequence[str]]) -> None:
        """Embed every task's examples (at least one each)."""
        for task, prompts in examples.items():
            self._examples[task] = await self._encoder.encode(list(prompts))

    async def classify(self, prompt: str) -> Classification:
        """What the prompt is most like."""
        row = (await self._encoder.encode([prompt]))[0]
        scores = sorted(
            ((task, self._similarity(row, rows)) for task, rows in self._examples.items()),
            key=lambda score: (-score[1], score[0]),
        )
        task, similarity = scores[0]
        return Classification(task, similarity, similarity >= self._min_similarity, tuple(scores))

    def _similarity(self, row: Rows, examples: Rows) -> float:
        cosines = examples @ row
        count = min(self._nearest_count, len(cosines))
        return float(np.partition(cosines, -count)[-count:].mean())
