"""Everything that is compared, asked in one way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from benchmarks.routing import classifiers, ours
from benchmarks.routing.answers import Answers
from benchmarks.routing.data_sets import Prompts
from benchmarks.routing.peer import SemanticRouter
from benchmarks.routing.rows import Rows

OURS = "deltafleet"
STATIC = "deltafleet, static step alone"
FULL = "deltafleet, full step alone"
ALONE = "deltafleet, without its library"
PEER = "semantic-router, as it comes"
TOLD = "told the true data set or subject"
TUNED = "semantic-router, best settings"
REGRESSION = "logistic regression"


class Answering(Protocol):
    """Has learned."""

    def answers(self, texts: Sequence[str]) -> Answers:
        """To each text."""
        ...

    def decide(self, text: str) -> object:
        """On one, as a gateway would ask."""
        ...


Contender = Callable[[Prompts], Answering]


def contenders(rows: Rows, peer: SemanticRouter) -> dict[str, Contender]:
    """Name -> how it learns. The peer's process holds one router at a time."""

    def asked(prompts: Prompts, *, is_tuned: bool) -> SemanticRouter:
        peer.learn(prompts, is_tuned=is_tuned)
        return peer

    steps = ours.Steps(rows.own)
    simple = {
        name: partial(classifiers.learn, kind, embedding=rows.whole)
        for name, kind in classifiers.BASELINES.items()
    }
    return {
        **simple,
        PEER: partial(asked, is_tuned=False),
        TUNED: partial(asked, is_tuned=True),
        ALONE: partial(ours.learn, embedding=rows.own, with_library=False),
        STATIC: steps.static,
        FULL: steps.full,
        OURS: steps.cascade,
    }
