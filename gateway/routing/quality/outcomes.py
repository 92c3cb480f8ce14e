"""What models did on prompts: scores and costs, read from a file."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


class BadOutcomes(ValueError):
    """A file of outcomes that cannot be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Prompts, each once, and how well each model answered them.

    models: sorted. scores: float64[prompts, models], 0 to 1; NaN: unknown. costs_usd: of the same
    shape, at least 0; NaN: unknown.
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    scores: Table
    costs_usd: Table

    def only(self, places: NDArray[np.int64]) -> Outcomes:
        """Those of the prompts at these places; the models stay."""
        prompts = tuple(self.prompts[place] for place in places)
        return Outcomes(prompts, self.models, self.scores[places], self.costs_usd[places])


@dataclass(frozen=True, slots=True)
class _Record:
    prompt: str
    model: str
    score: float | None
    cost_usd: float | None


def read_outcomes(path: Path) -> Outcomes:
    """Lines of one of two forms, in any mixture; other keys and empty lines are ignored.

    One model's: `{"prompt": ..., "model": ..., "score": ..., "cost_usd": ...}`, or all of a
    prompt's: `{"prompt": ..., "scores": {model: score}, "cost_usd": {model: usd}}`. Scores are from
    0 to 1. A score or cost that is missing, null or NaN is unknown, which is not zero. What is told
    several times for one prompt and model is averaged.

    Raises BadOutcomes, naming file and line; OSError.
    """
    records = [record for place, line in _lines(path) for record in _records(line, place)]
    if all(record.score is None for record in records):
        raise BadOutcomes(f"{path}: no scores in it")
    return _tabled(records)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """What is in each line, and where it is. JSON's strings may hold what else ends lines."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadOutcomes(f"{path}: not UTF-8 at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}, line {number}", line


def _records(line: str, place: str) -> list[_Record]:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise BadOutcomes(f"{place}: not JSON") from error
    if not isinstance(told, dict) or not isinstance(told.get("prompt"), str):
        raise BadOutcomes(f'{place}: not {{"prompt": "...", ...}}')
    is_one, is_all = "model" in told, "scores" in told
    if is_one == is_all:
        raise BadOutcomes(f'{place}: either "model" and "score", or "scores", is needed')
    if is_one:
        scores, costs = {told["model"]: told.get("score")}, {told["model"]: told.get("cost_usd")}
    else:
        scores, costs = _by_model(told, "scores", place), _by_model(told, "cost_usd", place)
    return [
        _Record(
            told["prompt"],
            _name(model, place),
            _number(scores.get(model), 1.0, f"{place}: the score"),
            _number(costs.get(model), math.inf, f"{place}: cost_usd"),
        )
        for model in {**scores, **costs}
    ]


def _by_model(told: Mapping[str, Any], key: str, place: str) -> dict[Any, Any]:
    found = told.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadOutcomes(f'{place}: "{key}" must be {{model: number}} beside "scores"')
    return found


def _name(model: Any, place: str) -> str:
    if not isinstance(model, str) or not model:
        raise BadOutcomes(f"{place}: a model's name must be a string, and not empty")
    return model


def _number(value: Any, highest: float, what: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadOutcomes(f"{what} must be a number")
    if value != value:  # NaN, which Python writes for what it does not know
        return None
    if not (0 <= value <= highest and value < 1e300):
        wanted = "from 0 to 1" if highest == 1 else "finite, at least 0"
        raise BadOutcomes(f"{what} is {value}: it must be {wanted}")
    return float(value)


def _tabled(records: list[_Record]) -> Outcomes:
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(r.prompt for r in records))}
    models = {model: i for i, model in enumerate(sorted({r.model for r in records}))}
    scores, costs = (np.full((len(prompts), len(models)), np.nan) for _ in range(2))
    for table, key in ((scores, "score"), (costs, "cost_usd")):
        told: dict[tuple[int, int], list[float]] = defaultdict(list)
        for record in records:
            value = getattr(record, key)
            if value is not None:
                told[prompts[record.prompt], models[record.model]].append(value)
        for cell, values in told.items():
            table[cell] = math.fsum(values) / len(values)
    return Outcomes(tuple(prompts), tuple(models), scores, costs)
