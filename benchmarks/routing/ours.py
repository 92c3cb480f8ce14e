"""Our router, as the others are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from benchmarks.routing.answers import Answers
from benchmarks.routing.data_sets import Prompts
from gateway.routing.encoder_files import kept
from gateway.routing.gloss import Gloss
from gateway.routing.head import Decision
from gateway.routing.labelled import OUT_OF_SCOPE, Labelled
from gateway.routing.static import StaticVectors
from gateway.routing.task_router import FullEncoder, TaskRouter, static_of

_NEVER, _ALWAYS = 2.0, 0.0  # is the static step's decision clear


class Ours:
    """A TaskRouter, asked one prompt at a time."""

    def __init__(self, router: TaskRouter, encoder: FullEncoder) -> None:
        self.router = router
        self._encoder = encoder

    def answers(self, texts: Sequence[str]) -> Answers:
        """To each text."""
        found = self.router.decide_all(texts, self._encoder)
        tasks = self.router.fitted.tasks
        probabilities = np.stack([one.probabilities for one in found])
        return Answers(
            tuple(one.task for one in found),
            tuple(tasks[place] for place in probabilities.argmax(1)),
            probabilities.max(1).astype(np.float64),
            probabilities[:, tasks.index(OUT_OF_SCOPE)].astype(np.float64),
            float(np.mean([one.decided_by == "static" for one in found])),
        )

    def decide(self, text: str) -> Decision:
        """On one text."""
        return self.router.decide(text, self._encoder)

    def by_one_step(self, *, is_static: bool) -> Ours:
        """The same with one of its steps alone."""
        fitted = replace(self.router.fitted, clear=_ALWAYS if is_static else _NEVER)
        return Ours(TaskRouter(fitted, static(), gloss()), self._encoder)


def learn(prompts: Prompts, embedding: FullEncoder, *, with_library: bool) -> Ours:
    """As `deltafleet router fit` does. with_library: from the project's own prompts, too."""
    labelled = [Labelled(*one) for one in zip(prompts.texts, prompts.tasks, strict=True)]
    router = TaskRouter.fit(labelled, embedding, static(), gloss(), with_library=with_library)
    return Ours(router, embedding)


class Steps:
    """Fits once, and is asked as the cascade and as each of its steps alone."""

    def __init__(self, embedding: FullEncoder) -> None:
        self._embedding = embedding
        self._fitted: dict[int, Ours] = {}

    def cascade(self, prompts: Prompts) -> Ours:
        """Both steps."""
        found = self._fitted.get(id(prompts))
        if found is None:
            found = self._fitted[id(prompts)] = learn(prompts, self._embedding, with_library=True)
        return found

    def full(self, prompts: Prompts) -> Ours:
        """The full step alone."""
        return self.cascade(prompts).by_one_step(is_static=False)

    def static(self, prompts: Prompts) -> Ours:
        """The static step alone. Glosses go to the full one all the same."""
        return self.cascade(prompts).by_one_step(is_static=True)


@cache
def gloss() -> Gloss:
    return Gloss()


@cache
def static() -> StaticVectors:
    return static_of(kept(None))
