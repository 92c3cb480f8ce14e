"""How good each model's answer to a prompt would be, and what it would cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from gateway.routing.head import BadRouter
from gateway.routing.quality.costs import Costs
from gateway.routing.quality.forest import Forest
from gateway.routing.quality.grams import Bags
from gateway.routing.quality.neighbours import Neighbours
from gateway.routing.quality.reading import OTHER_COUNT, Reading

Floats = NDArray[np.float32]
Table = NDArray[np.float64]
_FORMAT = "deltafleet.quality 1"
_PRIOR = 0.02  # of a leaf: how much the mean score counts beside what is known in it


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """Of each model, in the order of the model's names.

    quality: float64[models], the expected score, 0 to 1. cost_usd: float64[models]; NaN: nothing
    is known of it.
    """

    quality: Table
    cost_usd: Table


@dataclass(frozen=True, slots=True, eq=False)
class Learners:
    """Three guesses of the scores: a line's, the nearest prompts', and a forest's, which knows the
    other two.

    axes: float32[dim, axes], the embeddings' principal directions. weights: float32[width, models]
    and bias: float32[models], the line.
    """

    axes: Floats
    weights: Floats
    bias: Floats
    neighbours: Neighbours
    forest: Forest

    def guesses(self, read: Floats, means: Table) -> Table:
        """float64[3, n, models]: the forest's, the line's, the neighbours'. read: float32[n,
        width]. means: float64[models], of the scores.
        """
        short = reduced(read, self.axes)
        line, near = read @ self.weights + self.bias, self.neighbours.guess(short)
        prior = _PRIOR * len(self.forest.roots)
        grown = np.empty((len(read), len(means)))
        for i, row in enumerate(np.concatenate([short, line, near], 1)):
            sums, counts = self.forest.totals(row)
            grown[i] = (sums + prior * means) / (counts + prior)
        return np.stack([grown, line, near])


def reduced(read: Floats, axes: Floats) -> Floats:
    """float32[n, axes + OTHER_COUNT]: what was read, the embedding along its axes only."""
    dim = len(axes)
    return np.concatenate([read[:, :dim] @ axes, read[:, dim:]], 1)


class QualityModel:
    """Estimates for any text: total and deterministic. Not for several threads at once."""

    def __init__(
        self,
        models: tuple[str, ...],
        reading: Reading,
        learners: Learners,
        costs: Costs,
        means: Estimates,
        blend: Table,
        facts: dict[str, Any],
    ) -> None:
        """means: what is known of each model without a prompt. blend: see blended. facts: how it
        was made and measured.
        """
        self.models = models
        self.means = means
        self.facts = facts
        self._reading = reading
        self._learners = learners
        self._costs = costs
        self._blend = blend
        self._bags = Bags()

    @property
    def width(self) -> int:
        """Of the embeddings."""
        return len(self._learners.axes)

    def check_width(self, width: int) -> None:
        """Raises BadRouter unless an encoder of that many dimensions is what it was fitted with."""
        if width != self.width:
            raise BadRouter(f"fitted on {self.width} dimensions, the encoder has {width}")

    def estimate(self, text: str, row: Floats) -> Estimates:
        """row: float32[width], the text's unit embedding. Raises ValueError for another width."""
        if row.shape != (self.width,):
            raise ValueError(f"an embedding of {row.shape}, not ({self.width},)")
        read = self._reading.read(text, row, self._bags)[None]
        found = self._estimated(read)
        return Estimates(found.quality[0], found.cost_usd[0])

    def estimate_all(self, texts: Sequence[str], rows: Floats) -> Estimates:
        """The same of many: quality and cost_usd are float64[n, models]."""
        return self._estimated(self._reading.read_all(texts, rows))

    def _estimated(self, read: Floats) -> Estimates:
        guesses = self._learners.guesses(read, self.means.quality)
        quality = blended(guesses, self.means.quality, self._blend)
        others = read[:, self.width :].astype(np.float64)
        return Estimates(quality, self._costs.expected(others))

    def save(self, directory: Path) -> None:
        """Write `quality.json` and `quality.safetensors`."""
        told = {
            "format": _FORMAT,
            "models": list(self.models),
            "facts": self.facts,
        }
        (directory / "quality.json").write_text(json.dumps(told, indent=1) + "\n")
        tensors = {
            **self._reading.tensors(),
            **{f"forest.{name}": one for name, one in self._learners.forest.tensors().items()},
            **{f"near.{name}": one for name, one in self._learners.neighbours.tensors().items()},
            **{f"costs.{name}": getattr(self._costs, name) for name in _COSTS},
            "axes": self._learners.axes,
            "weights": self._learners.weights,
            "bias": self._learners.bias,
            "blend": self._blend,
            "mean_quality": self.means.quality,
        }
        in_order = {name: np.ascontiguousarray(one) for name, one in tensors.items()}
        save_file(in_order, directory / "quality.safetensors")  # which writes memory as it lies

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Raises BadRouter."""
        try:
            told = json.loads((directory / "quality.json").read_text())
            tensors = load_file(directory / "quality.safetensors")
            if told["format"] != _FORMAT:
                raise BadRouter(f"{directory}: made by another version: {told['format']}")
            return cls._made(told, tensors)
        except BadRouter:
            raise
        except Exception as error:  # whatever a damaged file makes the readers raise
            raise BadRouter(f"{directory}: no estimates of quality: {error!r}") from error

    @classmethod
    def _made(cls, told: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Self:
        models = tuple(map(str, told["models"]))
        count, dim = len(models), len(tensors["axes"])
        width, axes = dim + OTHER_COUNT, tensors["axes"].shape[1]
        shapes = {
            "axes": (dim, axes),
            "weights": (width, count),
            "bias": (count,),
            "blend": (3, 2),
            "mean_quality": (count,),
            "costs.weights": (OTHER_COUNT, count),
            **{f"costs.{name}": (count,) for name in _COSTS[1:]},
        }
        for name, shape in shapes.items():
            if tensors[name].shape != shape or tensors[name].dtype not in (np.float32, np.float64):
                raise ValueError(f"{name} is {tensors[name].dtype}{list(tensors[name].shape)}")
        forest = Forest.from_tensors(_under("forest.", tensors), axes + OTHER_COUNT + 2 * count)
        if forest.sums.shape[1] != count or not count:
            raise ValueError(f"{count} models, a forest for {forest.sums.shape[1]}")
        near = Neighbours.from_tensors(_under("near.", tensors), axes + OTHER_COUNT, count)
        line = (tensors["axes"], tensors["weights"], tensors["bias"])
        costs = Costs(*(tensors[f"costs.{name}"] for name in _COSTS))
        means = Estimates(tensors["mean_quality"], costs.means)
        reading, facts = Reading.from_tensors(tensors), dict(told["facts"])
        learners = Learners(*line, near, forest)
        return cls(models, reading, learners, costs, means, tensors["blend"], facts)


_COSTS = ("weights", "bias", "lowest", "highest", "means")


def _under(prefix: str, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): one for k, one in tensors.items() if k.startswith(prefix)}


def blended(guesses: Table, means: Table, blend: Table) -> Table:
    """float64[n, models], between 0 and 1. guesses: float64[3, n, models]. means: float64[models].

    blend: float64[3, 2], how much each guess counts for a prompt's distance from the means that all
    models share, its difficulty, and for how far each model is from that.
    """
    common, apart = distances(guesses, means)
    told = np.tensordot(blend[:, 0], common, 1) + np.tensordot(blend[:, 1], apart, 1)
    return np.asarray(np.clip(means + told, 0, 1))


def distances(scores: Table, means: Table) -> tuple[Table, Table]:
    """From the means: what all models share, float64[..., n, 1], and the rest, of scores' shape.

    scores: float64[..., n, models].
    """
    common = (scores - means).mean(-1, keepdims=True)
    return common, scores - means - common
