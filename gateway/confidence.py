"""How probably an answer is right, from how probable its tokens were to the model that gave it.

The plain confidence is the geometric mean of the tokens' probabilities, exp(mean log-probability).
It ranks answers, but it is no share of right ones; a curve that was fitted on scored answers makes
it one. Two families: a logistic curve (Platt 1999) and a staircase that never falls (isotonic
regression, Zadrozny and Elkan 2002); whichever is nearer on held-out folds is kept.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

FOLD_COUNT = 5
SMALLEST_COUNT = 20  # scored answers; with fewer, a curve says more of them than of the model


class BadConfidence(ValueError):
    """Scored answers, or a curve, that cannot be used."""


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """mean_logprob: at most 0. score: how right it was, 0 to 1."""

    mean_logprob: float
    score: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean log-probability → confidence, 0 to 1, never falling.

    slope, offset: of a logistic curve. Else values at rising places, straight between them and
    level outside. Neither: the plain confidence.
    """

    slope: float | None = None
    offset: float = 0.0
    places: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict, compare=False)

    def confidence(self, mean_logprob: float) -> float:
        """0 to 1."""
        if self.slope is not None:
            return _logistic(self.slope * mean_logprob + self.offset)
        if self.places:
            return self._between(mean_logprob)
        return math.exp(min(0.0, mean_logprob))

    def _between(self, place: float) -> float:
        after = bisect.bisect_right(self.places, place)
        if after in (0, len(self.places)):
            return self.values[max(0, after - 1)]
        (left, right), (low, high) = (
            self.places[after - 1 : after + 1],
            self.values[after - 1 : after + 1],
        )
        return low + (high - low) * (place - left) / (right - left)


PLAIN = Curve()


def fit(answers: Sequence[ScoredAnswer]) -> Curve:
    """The curve that is nearer to scores of answers it has not seen; its facts say how near.

    Raises BadConfidence where there are too few answers, or all are equally good.
    """
    if len(answers) < SMALLEST_COUNT:
        raise BadConfidence(f"{len(answers)} scored answers; at least {SMALLEST_COUNT} are needed")
    if len({one.score for one in answers}) < 2:
        raise BadConfidence("all answers have the same score: there is nothing to tell apart")
    errors = {name: _held_out_error(fitter, answers) for name, fitter in _FITTERS.items()}
    errors["plain"] = _error(PLAIN, answers)
    best = min(_FITTERS, key=lambda name: errors[name])
    curve = _FITTERS[best](answers)
    facts = {"answer_count": len(answers), "kept": best, "squared_error": errors}
    return Curve(curve.slope, curve.offset, curve.places, curve.values, facts)


def read_scored(path: Path) -> list[ScoredAnswer]:
    """Lines of `{"mean_logprob": ..., "score": ...}`; other keys and empty lines are ignored.

    Raises BadConfidence, naming file and line; OSError.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            one = ScoredAnswer(float(record["mean_logprob"]), float(record["score"]))
        except (ValueError, TypeError, KeyError) as error:
            raise BadConfidence(f"{path}:{number}: no mean_logprob and score ({error})") from None
        if not (math.isfinite(one.mean_logprob) and one.mean_logprob <= 0):
            raise BadConfidence(f"{path}:{number}: mean_logprob: at most 0")
        if not 0 <= one.score <= 1:
            raise BadConfidence(f"{path}:{number}: score: 0 to 1")
        found.append(one)
    return found


def save(curve: Curve, path: Path) -> None:
    """Raises OSError."""
    content = asdict(curve)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Curve:
    """Raises BadConfidence."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        curve = Curve(
            slope=None if content["slope"] is None else float(content["slope"]),
            offset=float(content["offset"]),
            places=tuple(map(float, content["places"])),
            values=tuple(map(float, content["values"])),
            facts=dict(content["facts"]),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadConfidence(f"{path}: not made by `escalation fit`: {error!r}") from None
    _check(curve, path)
    return curve


def _check(curve: Curve, path: Path) -> None:
    numbers = (curve.slope or 0.0, curve.offset, *curve.places, *curve.values)
    places, values = curve.places, curve.values
    if not (
        all(map(math.isfinite, numbers))
        and (curve.slope or 0.0) >= 0
        and len(places) == len(values)
        and all(left < right for left, right in pairwise(places))
        and all(low <= high for low, high in pairwise(values))
        and all(0 <= value <= 1 for value in values)
    ):
        raise BadConfidence(f"{path}: no curve that never falls, from 0 to 1")


def _logistic(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def _platt(answers: Sequence[ScoredAnswer]) -> Curve:
    """A score between 0 and 1 counts as that share of a right answer; lightly regularised."""
    from sklearn.linear_model import LogisticRegression

    rows = [[one.mean_logprob] for one in answers] * 2
    rights = [1] * len(answers) + [0] * len(answers)
    weights = [one.score for one in answers] + [1 - one.score for one in answers]
    model = LogisticRegression(C=100.0).fit(rows, rights, sample_weight=weights)
    # A curve that fell would trust the unlikeliest answers most.
    slope = max(0.0, float(model.coef_[0][0]))
    offset = float(model.intercept_[0]) if slope else _log_odds(answers)
    return Curve(slope=slope, offset=offset)


def _log_odds(answers: Sequence[ScoredAnswer]) -> float:
    share = (sum(one.score for one in answers) + 0.5) / (len(answers) + 1)
    return math.log(share / (1 - share))


def _isotonic(answers: Sequence[ScoredAnswer]) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    model.fit([one.mean_logprob for one in answers], [one.score for one in answers])
    places = tuple(map(float, model.X_thresholds_))
    return Curve(places=places, values=tuple(map(float, model.y_thresholds_)))


_FITTERS = {"platt": _platt, "isotonic": _isotonic}


def _held_out_error(fitter: Any, answers: Sequence[ScoredAnswer]) -> float:
    """Mean squared error on folds that the curve has not seen; every fifth answer is a fold."""
    errors = []
    for fold in range(FOLD_COUNT):
        seen = [one for place, one in enumerate(answers) if place % FOLD_COUNT != fold]
        curve = fitter(seen)
        errors += [_error(curve, [one]) for one in answers[fold::FOLD_COUNT]]
    return sum(errors) / len(errors)


def _error(curve: Curve, answers: Sequence[ScoredAnswer]) -> float:
    squares = [(curve.confidence(one.mean_logprob) - one.score) ** 2 for one in answers]
    return sum(squares) / len(squares)
