"""Classification + constraints → the model that answers well enough for the least money. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from gateway.classifier import Classification
from gateway.errors import NoModelQualifies
from model_pool.errors import UnknownModel


class ModelKind(Enum):
    """What kind of model answers."""

    SPECIALIST = "specialist"
    BASE = "base"
    CLOSED_API = "closed_api"


class RouteReason(Enum):
    """Why this model."""

    PINNED = "pinned"
    CLASSIFIED = "classified"
    OUT_OF_SCOPE = "out_of_scope"
    CONSTRAINED = "constrained"


@dataclass(frozen=True, slots=True)
class Target:
    """A model that requests can go to.

    quality: expected share of right answers, 0 to 1: on its own task for a specialist, on any for
    the others.
    """

    name: str
    kind: ModelKind
    quality: float


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the caller asks. None: no limit."""

    min_quality: float | None = None
    max_cost_nano_usd: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that was weighed for one prompt.

    qualifies: whether it may answer, is as good and as cheap as asked.
    """

    target: Target
    similarity: float
    quality: float
    expected_cost_nano_usd: int
    qualifies: bool


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes and why.

    task: empty where the prompt is out of scope. decided_by, note: see Classification.
    """

    target: Target
    reason: RouteReason
    task: str
    similarity: float
    explanation: str
    candidates: tuple[Candidate, ...]
    decided_by: str = ""
    note: str = ""


class Router:
    """Chooses among the fleet's models.

    A specialist answers its own task only, unless it is the fallback: for others its quality is
    not known, so it is weighed as 0.
    """

    def __init__(self, targets: Mapping[str, Target], *, fallback: str, min_quality: float) -> None:
        self._targets = targets
        self._fallback = targets[fallback]
        self._min_quality = min_quality

    def pinned(self, model: str) -> Route:
        """The model that the caller named. Raises UnknownModel."""
        target = self._targets.get(model)
        if target is None:
            raise UnknownModel(f"no model is called {model!r}", model=model)
        return Route(target, RouteReason.PINNED, "", 0.0, f"the caller named {model}", ())

    def route(
        self,
        classification: Classification,
        constraints: Constraints,
        expected_cost_nano_usd: Callable[[Target], int],
    ) -> Route:
        """The first choice where it meets the constraints, else the cheapest model that does.

        expected_cost_nano_usd: what the answer will probably cost on a target. Raises
        NoModelQualifies.
        """
        candidates = self._candidates(classification, constraints, expected_cost_nano_usd)
        first = self._first_choice(classification, candidates)
        chosen, reason = first, self._plain_reason(classification)
        if not first.qualifies:
            able = [one for one in candidates if one.qualifies]
            if not able:
                raise NoModelQualifies(self._why_none(constraints, candidates))
            chosen = min(able, key=lambda one: (one.expected_cost_nano_usd, -one.quality))
            reason = RouteReason.CONSTRAINED
        return Route(
            target=chosen.target,
            reason=reason,
            task=classification.task if classification.is_in_scope else "",
            similarity=classification.similarity,
            explanation=_explain(classification, chosen, first, reason),
            candidates=candidates,
            decided_by=classification.decided_by,
            note=classification.note,
        )

    def _plain_reason(self, classification: Classification) -> RouteReason:
        return RouteReason.CLASSIFIED if classification.is_in_scope else RouteReason.OUT_OF_SCOPE

    def _first_choice(
        self, classification: Classification, candidates: tuple[Candidate, ...]
    ) -> Candidate:
        name = classification.task if classification.is_in_scope else self._fallback.name
        return next(one for one in candidates if one.target.name == name)

    def _candidates(
        self,
        classification: Classification,
        constraints: Constraints,
        expected_cost_nano_usd: Callable[[Target], int],
    ) -> tuple[Candidate, ...]:
        rank = {task: place for place, (task, _) in enumerate(classification.scores)}
        found = [
            self._candidate(target, classification, constraints, expected_cost_nano_usd(target))
            for target in self._targets.values()
        ]
        return tuple(sorted(found, key=lambda one: rank.get(one.target.name, len(rank))))

    def _candidate(
        self,
        target: Target,
        classification: Classification,
        constraints: Constraints,
        cost_nano_usd: int,
    ) -> Candidate:
        may_answer = self._may_answer(target, classification)
        quality = target.quality if may_answer else 0.0
        return Candidate(
            target=target,
            similarity=dict(classification.scores).get(target.name, 0.0),
            quality=quality,
            expected_cost_nano_usd=cost_nano_usd,
            qualifies=may_answer and self._meets(quality, cost_nano_usd, constraints),
        )

    def _may_answer(self, target: Target, classification: Classification) -> bool:
        is_own_task = classification.is_in_scope and target.name == classification.task
        return target.kind is not ModelKind.SPECIALIST or is_own_task or target == self._fallback

    def _meets(self, quality: float, cost_nano_usd: int, constraints: Constraints) -> bool:
        ceiling = constraints.max_cost_nano_usd
        is_cheap = ceiling is None or cost_nano_usd <= ceiling
        return is_cheap and quality >= self._floor(constraints)

    def _floor(self, constraints: Constraints) -> float:
        asked = constraints.min_quality
        return self._min_quality if asked is None else asked

    def _why_none(self, constraints: Constraints, candidates: tuple[Candidate, ...]) -> str:
        best = max(one.quality for one in candidates)
        least = min(one.expected_cost_nano_usd for one in candidates)
        ceiling = constraints.max_cost_nano_usd
        limit = "at any cost" if ceiling is None else f"for at most {ceiling} nano-dollars"
        return (
            f"no model answers with a quality of {self._floor(constraints):g} {limit}: the best "
            f"expected quality is {best:g}, the least expected cost {least} nano-dollars"
        )


def _explain(
    classification: Classification, chosen: Candidate, first: Candidate, reason: RouteReason
) -> str:
    nearest = f"{classification.task} is nearest at {classification.similarity:.2f}"
    if reason is RouteReason.CLASSIFIED:
        return nearest
    if reason is RouteReason.OUT_OF_SCOPE:
        return f"{nearest}, below the threshold: out of scope, to {chosen.target.name}"
    return (
        f"{nearest}; {first.target.name} does not meet the constraints, "
        f"{chosen.target.name} is the cheapest that does"
    )
