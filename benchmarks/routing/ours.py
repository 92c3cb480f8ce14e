"""Our router, as the others are asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from benchmarks.routing.answers import Answers
from benchmarks.routing.data_sets import Prompts
from gateway.routing.gloss import Gloss
from gateway.routing.head import Decision, scope_scores
from gateway.routing.labelled import Labelled
from gateway.routing.task_router import Embedding, TaskRouter


class Ours:
    """A TaskRouter, asked one prompt at a time."""

    def __init__(self, router: TaskRouter) -> None:
        self._router = router

    def answers(self, texts: Sequence[str]) -> Answers:
        """To each text."""
        tasks = self._router.head.tasks
        found = [self._router.decide(text) for text in texts]
        probabilities = np.stack([one.probabilities for one in found])
        return Answers(
            tuple(one.task for one in found),
            tuple(tasks[i] for i in probabilities.argmax(1)),
            probabilities.max(1).astype(np.float64),
            scope_scores(tasks, probabilities).astype(np.float64),
        )

    def decide(self, text: str) -> Decision:
        """On one text."""
        return self._router.decide(text)


def learn(prompts: Prompts, embedding: Embedding, *, with_library: bool) -> Ours:
    """As `deltafleet router fit` does. with_library: from the project's own prompts, too."""
    labelled = [Labelled(*one) for one in zip(prompts.texts, prompts.tasks, strict=True)]
    return Ours(TaskRouter.fit(labelled, embedding, gloss(), with_library=with_library))


@cache
def gloss() -> Gloss:
    return Gloss()
