"""How well each router tells tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.routing.answers import Answered, figures, recalls
from benchmarks.routing.contenders import ALONE, OURS, REGRESSION, Contender
from benchmarks.routing.data_sets import Prompts
from benchmarks.routing.ours import Ours
from benchmarks.routing.peer import SemanticRouter
from benchmarks.routing.splits import Split
from benchmarks.timing import say


@dataclass(frozen=True, slots=True)
class Trial:
    """parts: what is learned from and what is then measured on, part by part. kinds: of the
    measured prompts in the parts' order, what else to tell apart (a language, a task).
    """

    parts: tuple[tuple[Prompts, Prompts], ...]
    kinds: tuple[str, ...] = ()


def split_trial(prompts: Prompts, splits: Sequence[Split]) -> Trial:
    """Parts of one set. Its kinds are tasks with their sources."""
    parts = tuple((prompts.at(one.learned), prompts.at(one.tested)) for one in splits)
    pairs = (pair for _, new in parts for pair in zip(new.tasks, new.sources, strict=True))
    return Trial(parts, tuple(f"{task}, {source}" for task, source in pairs))


def measure(name: str, trial: Trial, contenders: Mapping[str, Contender]) -> dict[str, Any]:
    """Contender -> figures; those of some by kind."""
    found = {}
    for contender, learn in contenders.items():
        began = time.perf_counter()
        tested, settings, scores = [], [], []
        for old, new in trial.parts:
            router = learn(old)
            tested.append(Answered(new.tasks, router.answers(new.texts)))
            if isinstance(router, Ours):
                scores.append(router.router.fitted.facts["scope_aurocs"])
            settings.append(router.settings if isinstance(router, SemanticRouter) else {})
        taken = time.perf_counter() - began
        found[contender] = {**figures(tested), "settings": settings}
        if scores:
            found[contender]["scope_aurocs"] = {
                name: float(np.mean([one[name] for one in scores])) for name in scores[0]
            }
        if trial.kinds and contender in (REGRESSION, ALONE, OURS):
            found[contender]["kinds"] = recalls(tested, trial.kinds)
        say(f"{name}, {contender}: accuracy {found[contender]['accuracy']:.3f}, {taken:.0f} s")
    return found
