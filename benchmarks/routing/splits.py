"""Which prompts are learned from, and which are then measured. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Places of prompts. tested: what is measured, never in learned."""

    learned: Indices
    tested: Indices


def folds(labels: Sequence[str], count: int = 5, seed: int = 0) -> list[Split]:
    """Each prompt is tested once; every label is spread evenly over the folds."""
    random = np.random.default_rng(seed)
    kinds = np.array(labels)
    fold_of = np.empty(len(kinds), np.int64)
    for label in sorted(set(labels)):
        places = random.permutation(np.flatnonzero(kinds == label))
        fold_of[places] = (np.arange(len(places)) + random.integers(count)) % count
    return _by_number(fold_of, count)


def grouped_folds(prompts: Sequence[str], count: int = 5, seed: int = 0) -> list[Split]:
    """Each prompt is tested once; those that differ in blanks and capitals are in one fold."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        groups[" ".join(prompt.lower().split())].append(place)
    members = list(groups.values())
    fold_of = np.empty(len(prompts), np.int64)
    sizes = [0] * count
    for number in np.random.default_rng(seed).permutation(len(members)):
        smallest = sizes.index(min(sizes))
        fold_of[members[number]] = smallest
        sizes[smallest] += len(members[number])
    return _by_number(fold_of, count)


def sources_left_out(
    tasks: Sequence[str], sources: Sequence[str], group_count: int = 5
) -> list[Split]:
    """Each source of a task that has more than one is tested once, in the split that leaves it out.

    A split leaves out one source of each task, or several where a task has more sources than there
    are splits. Sources of a task are taken from the greatest to the least.
    """
    pairs = Counter(zip(tasks, sources, strict=True))
    group_of: dict[tuple[str, str], int] = {}
    for number, task in enumerate(sorted(set(tasks))):
        own = sorted((pair for pair in pairs if pair[0] == task), key=lambda p: (-pairs[p], p[1]))
        if len(own) > 1:
            group_of |= {pair: (number + i) % group_count for i, pair in enumerate(own)}
    fold_of = np.array([group_of.get(pair, -1) for pair in zip(tasks, sources, strict=True)])
    return _by_number(fold_of, group_count)


def _by_number(fold_of: Indices, count: int) -> list[Split]:
    """fold_of: where each is tested; -1: nowhere."""
    marks = [fold_of == number for number in range(count)]
    return [Split(np.flatnonzero(~one), np.flatnonzero(one)) for one in marks if one.any()]
