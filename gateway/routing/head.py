"""From what is known of a prompt to calibrated probabilities of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gateway.routing import lookup
from gateway.routing.labelled import OUT_OF_SCOPE
from gateway.routing.neighbours import Neighbours
from gateway.routing.scanning import SHAPE_COUNT
from gateway.routing.words import Floats, Places


class BadRouter(ValueError):
    """A directory that is no router, or another version's."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a prompt is for.

    task: `out_of_scope` where is_in_scope is false. probability: of the task. runner_up: the next
    most probable. probabilities: float32[tasks], of every one of tasks. decided_by: the step of the
    cascade, "static" or "full".
    """

    task: str
    probability: float
    runner_up: str
    is_in_scope: bool
    tasks: tuple[str, ...]
    probabilities: Floats
    decided_by: str

    def scores(self) -> dict[str, float]:
        """Every task's probability."""
        return dict(zip(self.tasks, self.probabilities.tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear layer and a softmax over a prompt's embedding, words and shape.

    tasks: in the order of the rows, `out_of_scope` among them. dense: float32[tasks, dim]. terms:
    float32[terms, tasks], one row for each term of `Words`. shape: float32[tasks, 14].
    bias: float32[tasks]. All are divided by the temperature that
    calibrates them (Guo et al. 2017, arXiv:1706.04599). neighbours: what they tell, times weight,
    is added to the logit of `out_of_scope`. scope_threshold: a prompt is out of scope where the
    probability of `out_of_scope` is at least this.
    """

    tasks: tuple[str, ...]
    dense: Floats
    terms: Floats
    shape: Floats
    bias: Floats
    scope_threshold: float
    neighbours: Neighbours | None = None
    weight: float = 0.0

    def logits(self, row: Floats, places: Places, weights: Floats, shape: Floats) -> Floats:
        """row: float32[dim]. places, weights: as `Words.weigh` gives. shape: as `shape_of` does.

        Returns float32[tasks].
        """
        found = self.dense @ row + self.shape @ shape + self.bias
        if len(places):
            found += weights @ self.terms[places]
        if self.neighbours is not None:
            strangeness = self.neighbours.strangeness(row[None])[0]
            found[self.tasks.index(OUT_OF_SCOPE)] += self.weight * strangeness
        return np.asarray(found, np.float32)

    def decided(self, logits: Floats, decided_by: str) -> Decision:
        """The decision that logits, float32[tasks], amount to."""
        probabilities: Floats = np.empty_like(logits)
        beyond = self.tasks.index(OUT_OF_SCOPE)
        chosen, second = lookup.choose(logits, beyond, self.scope_threshold, probabilities)
        return Decision(
            self.tasks[chosen],
            float(probabilities[chosen]),
            self.tasks[second],
            chosen != beyond,
            self.tasks,
            probabilities,
            decided_by,
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `from_tensors` takes."""
        found: dict[str, NDArray[Any]] = {"dense": self.dense, "terms": self.terms}
        found |= {"shape": self.shape, "bias": self.bias}
        if self.neighbours is not None:
            found["inside"], found["beyond"] = self.neighbours.inside, self.neighbours.beyond
            found["weight"] = np.array([self.weight], np.float32)
        return found

    @classmethod
    def from_tensors(
        cls, tasks: tuple[str, ...], tensors: Mapping[str, NDArray[Any]], scope_threshold: float
    ) -> Self:
        """Raises KeyError where one is missing."""
        neighbours, weight = None, 0.0
        if "weight" in tensors:
            neighbours = Neighbours(tensors["inside"], tensors["beyond"])
            weight = float(tensors["weight"][0])
        return cls(
            tasks,
            *(tensors["dense"], tensors["terms"], tensors["shape"], tensors["bias"]),
            scope_threshold,
            neighbours,
            weight,
        )

    def check(self, *, width: int, term_count: int) -> None:
        """Raises BadRouter unless the tensors belong together, and to an embedding so wide."""
        count = len(self.tasks)
        shapes = (self.dense.shape, self.terms.shape, self.shape.shape, self.bias.shape)
        wanted = ((count, width), (term_count, count), (count, SHAPE_COUNT), (count,))
        if shapes != wanted:
            raise BadRouter(f"its tensors are {shapes}, where {wanted} were expected")
        near = self.neighbours
        if near is not None and (near.inside.shape[1], near.beyond.shape[1]) != (width, width):
            raise BadRouter(f"its neighbours are not of {width} dimensions")
