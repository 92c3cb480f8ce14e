"""A few lines of each set, to try the whole chain on."""

from __future__ import annotations

from collections import Counter

import numpy as np

from benchmarks.routing.data_sets import Prompts
from gateway.routing.quality.outcomes import Outcomes


def thin_prompts(prompts: Prompts, count: int) -> Prompts:
    """The first so many of each source of each task."""
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for place, task in enumerate(prompts.tasks):
        pair = (task, prompts.sources[place] if prompts.sources else "")
        seen[pair] += 1
        if seen[pair] <= count:
            places.append(place)
    return prompts.at(np.array(places))


def thin_outcomes(outcomes: Outcomes, count: int) -> Outcomes:
    """So many prompts, evenly drawn."""
    total = len(outcomes.prompts)
    return outcomes.only(np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)))
