"""What a router answered, and what that is worth. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.routing.labelled import OUT_OF_SCOPE
from gateway.routing.scoring import Bin, auroc, expected_calibration_error, reliability

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """To n prompts.

    chosen: a task or `out_of_scope`. best: what is likeliest before any threshold. confidences:
    [n], of best. beyond: [n], how far out of scope. static_share: of our cascade's static step.
    """

    chosen: tuple[str, ...]
    best: tuple[str, ...]
    confidences: Floats
    beyond: Floats
    static_share: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Answers to one split's prompts, and what is right."""

    truth: tuple[str, ...]
    answers: Answers


def figures(parts: Sequence[Answered]) -> dict[str, Any]:
    """What several splits amount to.

    accuracy: of task, or out of scope. in_scope_accuracy, out_of_scope_recall: of each kind alone.
    ece: of the likeliest label's probability, 15 bins, before the threshold. These are of all
    prompts together; auroc, of telling out of scope from the rest, is the splits' mean, since each
    split has a router of its own. Kinds that were not tested are left out.
    """
    truth = _joined(one.truth for one in parts)
    is_right = truth == _joined(one.answers.chosen for one in parts)
    is_beyond = truth == OUT_OF_SCOPE
    found: dict[str, Any] = {"count": len(truth), "accuracy": float(is_right.mean())}
    if (~is_beyond).any():
        found["in_scope_accuracy"] = float(is_right[~is_beyond].mean())
    if is_beyond.any():
        found["out_of_scope_recall"] = float(is_right[is_beyond].mean())
    areas = [_area(one) for one in parts]
    known = [one for one in areas if one is not None]
    if known:
        found["auroc"] = float(np.mean(known))
    shares = [one.answers.static_share for one in parts if one.answers.static_share is not None]
    if shares:
        found["static_share"] = float(np.mean(shares))
    bins = diagram(parts)
    found["ece"] = expected_calibration_error(bins)
    found["diagram"] = [list(astuple(one)) for one in bins]
    return found


def recalls(parts: Sequence[Answered], kinds: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Kind -> how many there are, and the share answered rightly. kinds: one per prompt."""
    truth = _joined(one.truth for one in parts)
    is_right = truth == _joined(one.answers.chosen for one in parts)
    listed = np.array(kinds)
    return {
        kind: (int((listed == kind).sum()), float(is_right[listed == kind].mean()))
        for kind in sorted(set(kinds))
    }


def diagram(parts: Sequence[Answered]) -> tuple[Bin, ...]:
    """The reliability diagram's bins."""
    truth = _joined(one.truth for one in parts)
    best = _joined(one.answers.best for one in parts)
    confidences = np.concatenate([one.answers.confidences for one in parts])
    return reliability(confidences, truth == best)


def _area(one: Answered) -> float | None:
    is_beyond = np.array(one.truth) == OUT_OF_SCOPE
    if is_beyond.all() or not is_beyond.any():
        return None
    return auroc(one.answers.beyond, is_beyond)


def _joined(lists: Iterable[Sequence[str]]) -> NDArray[Any]:
    return np.concatenate([np.array(one) for one in lists])
