"""Classification + constraints → the model that answers well enough for the least money. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from gateway.classifier import Classification
from gateway.errors import NoModelQualifies
from gateway.routing.quality.choice import Option, choose
from gateway.routing.words import Floats
from model_pool.errors import FleetError, UnknownModel


class ModelKind(Enum):
    """What kind of model answers."""

    SPECIALIST = "specialist"
    BASE = "base"
    CLOSED_API = "closed_api"
    MIXTURE = "mixture"


class RouteReason(Enum):
    """Why this model."""

    PINNED = "pinned"
    CLASSIFIED = "classified"
    OUT_OF_SCOPE = "out_of_scope"
    CONSTRAINED = "constrained"
    CHEAPEST = "cheapest"
    BEST = "best"
    EXPLORED = "explored"
    ESCALATED = "escalated"


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
    """What is asked. None: nothing, of which for quality the fleet's default takes the place.

    quality_is_default: min_quality is fleet.yaml's word on this caller, not the request's.
    accepts_less: the best within the cost where no model has min_quality.
    """

    min_quality: float | None = None
    max_cost_nano_usd: int | None = None
    quality_is_default: bool = False
    accepts_less: bool = False


def no_change(model: str, quality: float) -> float:
    """The quality as it is."""
    return quality


def no_refusal(model: str) -> FleetError | None:
    """Any model can be asked."""
    return None


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is known of the answers to one prompt.

    cost_nano_usd: what the answer will probably cost on a target. qualities: share of right
    answers by model, learned from outcomes; a target that is not in it has what fleet.yaml says of
    it. None: nothing was learned. corrected: a model's quality after what callers said of answers.
    refusal: why a model cannot be asked now, None where it can.
    """

    cost_nano_usd: Callable[[Target], int]
    qualities: Mapping[str, float] | None = None
    corrected: Callable[[str, float], float] = no_change
    refusal: Callable[[str], FleetError | None] = no_refusal


class Candidate(NamedTuple):
    """A model that was weighed for one prompt. A tuple, as each prompt has one for each model.

    may_answer: its quality is known for such a prompt, and it can be asked. qualifies: besides, it
    is as good and as cheap as asked. refusal: what alone keeps it from that.
    """

    target: Target
    similarity: float
    quality: float
    expected_cost_nano_usd: int
    may_answer: bool
    qualifies: bool
    refusal: FleetError | None = None


@dataclass(frozen=True, slots=True)
class Contribution:
    """One answer on the way to the caller's. confidence: 0 to 1; None: not known."""

    model: str
    cost_nano_usd: int
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes and why.

    task: empty where the prompt is out of scope. decided_by, note, row: see Classification.
    contributions: other answers that the caller's was made after, or from. allowed: the models that
    may answer the caller; None: all.
    """

    target: Target
    reason: RouteReason
    task: str
    similarity: float
    explanation: str
    candidates: tuple[Candidate, ...]
    decided_by: str = ""
    note: str = ""
    row: Floats | None = field(default=None, compare=False, repr=False)
    contributions: tuple[Contribution, ...] = ()
    allowed: frozenset[str] | None = None


class Router:
    """Chooses among the fleet's models.

    A specialist answers its own task only, unless it is the fallback or something was learned of
    its answers to any prompt: otherwise its quality is not known, so it is weighed as 0.
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
        expected: Expectations,
        *,
        weighs_all: bool = True,
    ) -> Route:
        """Where the prompt goes.

        Where nothing was learned: to its task's specialist, out of scope to the fallback, and if
        that does not meet the constraints, to the cheapest model that does. Else to the cheapest
        that does, whatever its task; if only a default asked for more than any model has, to the
        best. A fallback that cannot be asked now leaves its prompts to the base.

        weighs_all: also the models that the prompt would not go to, where its task's specialist
        will do; else nobody is told of them. Raises NoModelQualifies, or why the only model that
        does cannot be asked now.
        """
        weigh = self._weigher(classification, constraints, expected)
        if not weighs_all and classification.is_in_scope and expected.qualities is None:
            own = weigh(self._targets[classification.task])
            if own.qualifies:
                return self._own(classification, own.target)
        candidates = tuple(map(weigh, self._by_similarity(classification)))
        if expected.qualities is None:
            chosen, reason = self._by_task(classification, constraints, candidates)
        else:
            chosen, reason = self._by_quality(constraints, candidates)
        is_plain = reason is RouteReason.CLASSIFIED
        refusals = [str(one.refusal) for one in candidates if one.refusal and not is_plain]
        return Route(
            target=chosen.target,
            reason=reason,
            task=classification.task if classification.is_in_scope else "",
            similarity=classification.similarity,
            explanation="; ".join(
                [self._explain(classification, constraints, chosen, reason), *refusals]
            ),
            candidates=candidates,
            decided_by=classification.decided_by,
            note=classification.note,
            row=classification.row,
        )

    def _own(self, classification: Classification, target: Target) -> Route:
        """To the prompt's own specialist, as nearly always."""
        return Route(
            target,
            RouteReason.CLASSIFIED,
            classification.task,
            classification.similarity,
            _nearest(classification),
            (),
            classification.decided_by,
            classification.note,
            classification.row,
        )

    def _by_task(
        self,
        classification: Classification,
        constraints: Constraints,
        candidates: tuple[Candidate, ...],
    ) -> tuple[Candidate, RouteReason]:
        is_in_scope = classification.is_in_scope
        name = classification.task if is_in_scope else self._fallback.name
        first = next(one for one in candidates if one.target.name == name)
        if first.refusal:
            base = (one for one in candidates if one.target.kind is ModelKind.BASE)
            first = next(base, first)
        if first.qualifies and not is_in_scope:
            return first, RouteReason.OUT_OF_SCOPE
        if first.qualifies:
            is_own = first.target.name == name
            return first, RouteReason.CLASSIFIED if is_own else RouteReason.CONSTRAINED
        able = [one for one in candidates if one.qualifies]
        if able:
            cheapest = min(able, key=lambda one: (one.expected_cost_nano_usd, -one.quality))
            return cheapest, RouteReason.CONSTRAINED
        if constraints.accepts_less:
            return self._by_quality(constraints, candidates)
        raise self._none_qualifies(constraints, candidates)

    def _by_quality(
        self, constraints: Constraints, candidates: tuple[Candidate, ...]
    ) -> tuple[Candidate, RouteReason]:
        options = [
            Option(one.target.name, one.quality, one.expected_cost_nano_usd)
            for one in candidates
            if one.may_answer
        ]
        chosen = choose(
            options,
            min_quality=self._floor(constraints),
            max_cost_nano_usd=constraints.max_cost_nano_usd,
        )
        found = next(
            (one for one in candidates if chosen and one.target.name == chosen.model), None
        )
        if found and found.qualifies:
            return found, RouteReason.CHEAPEST
        asked_for_it = constraints.min_quality is not None and not constraints.quality_is_default
        if found is None or (asked_for_it and not constraints.accepts_less):
            raise self._none_qualifies(constraints, candidates)
        return found, RouteReason.BEST

    def _by_similarity(self, classification: Classification) -> list[Target]:
        """Every model, those of tasks first."""
        tasks = dict(classification.scores)
        named = [self._targets[task] for task in tasks if task in self._targets]
        return [*named, *(one for name, one in self._targets.items() if name not in tasks)]

    def _weigher(
        self, classification: Classification, constraints: Constraints, expected: Expectations
    ) -> Callable[[Target], Candidate]:
        similarities = dict(classification.scores)
        ceiling, floor = constraints.max_cost_nano_usd, self._floor(constraints)

        def weigh(target: Target) -> Candidate:
            quality = self._quality(target, classification, expected)
            cost = expected.cost_nano_usd(target)
            is_cheap = ceiling is None or cost <= ceiling
            refusal = expected.refusal(target.name)
            would_do = quality is not None and is_cheap and quality >= floor
            return Candidate(
                target=target,
                similarity=similarities.get(target.name, 0.0),
                quality=quality or 0.0,
                expected_cost_nano_usd=cost,
                may_answer=quality is not None and refusal is None,
                qualifies=would_do and refusal is None,
                refusal=refusal if would_do else None,
            )

        return weigh

    def _quality(
        self, target: Target, classification: Classification, expected: Expectations
    ) -> float | None:
        quality = (expected.qualities or {}).get(target.name)
        if quality is None:
            is_own_task = classification.is_in_scope and target.name == classification.task
            has_a_task = target.kind in (ModelKind.SPECIALIST, ModelKind.MIXTURE)
            if has_a_task and not is_own_task and target != self._fallback:
                return None
            quality = target.quality
        return expected.corrected(target.name, quality)

    def _floor(self, constraints: Constraints) -> float:
        asked = constraints.min_quality
        return self._min_quality if asked is None else asked

    def _none_qualifies(
        self, constraints: Constraints, candidates: tuple[Candidate, ...]
    ) -> FleetError:
        refusals = [one.refusal for one in candidates if one.refusal]
        if refusals:
            return refusals[0]
        best = max(one.quality for one in candidates)
        least = min(one.expected_cost_nano_usd for one in candidates)
        ceiling = constraints.max_cost_nano_usd
        limit = "at any cost" if ceiling is None else f"for at most {ceiling} nano-dollars"
        return NoModelQualifies(
            f"no model answers with a quality of {self._floor(constraints):g} {limit}: the best "
            f"expected quality is {best:g}, the least expected cost {least} nano-dollars"
        )

    def _explain(
        self,
        classification: Classification,
        constraints: Constraints,
        chosen: Candidate,
        reason: RouteReason,
    ) -> str:
        nearest = _nearest(classification)
        name, floor = chosen.target.name, self._floor(constraints)
        match reason:
            case RouteReason.CLASSIFIED:
                return nearest
            case RouteReason.OUT_OF_SCOPE:
                return f"{nearest}, below the threshold: out of scope, to {name}"
            case RouteReason.CHEAPEST:
                return (
                    f"{nearest}; {name} is the cheapest with an expected quality of at least "
                    f"{floor:.2f}: {chosen.quality:.2f}"
                )
            case RouteReason.BEST:
                return (
                    f"{nearest}; no model that is cheap enough has an expected quality of "
                    f"{floor:.2f}, {name} has the best: {chosen.quality:.2f}"
                )
        first = classification.task if classification.is_in_scope else self._fallback.name
        return f"{nearest}; {first} does not meet the constraints, {name} is the cheapest that does"


def _nearest(classification: Classification) -> str:
    if not classification.task:
        return "the task is not known"
    return f"{classification.task} is nearest at {classification.similarity:.2f}"
