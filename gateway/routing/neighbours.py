"""How near a prompt is to prompts out of scope, and to others. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gateway.routing.words import Floats

_NEAREST_COUNT = 5
_MOST_INSIDE, _MOST_BEYOND = 4000, 2000  # rows to look through in each full decision


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Embeddings of labelled prompts, float32[n, dim] each: inside, of tasks; beyond, of none."""

    inside: Floats
    beyond: Floats

    @classmethod
    def of(cls, rows: Floats, is_beyond: NDArray[np.bool_]) -> Self:
        """At most so many of each, evenly drawn."""
        inside, beyond = rows[~is_beyond], rows[is_beyond]
        return cls(_drawn(inside, _MOST_INSIDE), _drawn(beyond, _MOST_BEYOND))

    def strangeness(self, rows: Floats) -> Floats:
        """float32[k]: the mean cosine to the five nearest beyond, less that to the five inside.

        rows: float32[k, dim], of length 1.
        """
        return _nearness(rows, self.beyond) - _nearness(rows, self.inside)


def _drawn(rows: Floats, most: int) -> Floats:
    if len(rows) <= most:
        return np.ascontiguousarray(rows)
    places = np.random.default_rng(0).choice(len(rows), most, replace=False)
    return np.ascontiguousarray(rows[np.sort(places)])


def _nearness(rows: Floats, known: Floats) -> Floats:
    count = min(_NEAREST_COUNT, len(known))
    cosines = rows @ known.T
    return np.asarray(np.partition(cosines, -count)[..., -count:].mean(-1), np.float32)
