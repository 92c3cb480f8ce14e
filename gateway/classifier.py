"""Prompt → task, similarity, in scope or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.encoder import Encoder, Rows


@dataclass(frozen=True, slots=True)
class Classification:
    """What a prompt is most like.

    task: the nearest one. similarity: cosine, -1 to 1. is_in_scope: similarity reaches the
    threshold. scores: every task's similarity, the nearest first.
    """

    task: str
    similarity: float
    is_in_scope: bool
    scores: tuple[tuple[str, float], ...]


class Classifier:
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
