"""Routing where models' qualities were learned: what is promised of every decision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classifier import Classification
from gateway.errors import NoModelQualifies
from gateway.router import (
    Constraints,
    Expectations,
    ModelKind,
    Route,
    Router,
    RouteReason,
    Target,
)

QUALITIES = st.floats(0, 1)
COSTS = st.integers(0, 6)  # few, so that many are equal
LIMITS = st.none() | COSTS


@dataclass(frozen=True)
class Case:
    """A fleet, what is known of it, and a prompt."""

    targets: dict[str, Target]
    learned: dict[str, float]
    costs: dict[str, int]
    classification: Classification
    default_quality: float
    heard: float = 0.0  # what feedback adds to every quality

    def route(self, constraints: Constraints) -> Route | None:
        """None: no model qualifies."""
        router = Router(self.targets, fallback="base", min_quality=self.default_quality)
        expected = Expectations(
            lambda target: self.costs[target.name],
            self.learned,
            lambda _, quality: min(1.0, quality + self.heard),
        )
        try:
            return router.route(self.classification, constraints, expected)
        except NoModelQualifies:
            return None

    def chosen(self, constraints: Constraints) -> tuple[float, int] | None:
        """Quality and cost of the model that is chosen."""
        found = self.route(constraints)
        if found is None:
            return None
        return next(
            (one.quality, one.expected_cost_nano_usd)
            for one in found.candidates
            if one.target == found.target
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Fleets of a base, up to four specialists and perhaps a closed API."""
    tasks = [f"task-{number}" for number in range(draw(st.integers(1, 4)))]
    targets = {"base": Target("base", ModelKind.BASE, draw(QUALITIES))}
    targets |= {name: Target(name, ModelKind.SPECIALIST, draw(QUALITIES)) for name in tasks}
    if draw(st.booleans()):
        targets["closed"] = Target("closed", ModelKind.CLOSED_API, draw(QUALITIES))
    learned = {name: draw(QUALITIES) for name in targets if draw(st.booleans())}
    costs = {name: draw(COSTS) for name in targets}
    task = draw(st.sampled_from(tasks))
    scores = ((task, 0.8), *((name, 0.1) for name in tasks if name != task))
    classification = Classification(task, 0.8, draw(st.booleans()), scores)
    return Case(targets, learned, costs, classification, draw(QUALITIES))


ASKED = st.builds(Constraints, st.none() | QUALITIES, LIMITS, accepts_less=st.booleans())


@given(cases(), ASKED)
def test_the_cheapest_that_is_good_enough(case: Case, asked: Constraints) -> None:
    found = case.route(asked)
    floor = case.default_quality if asked.min_quality is None else asked.min_quality
    ceiling = float("inf") if asked.max_cost_nano_usd is None else asked.max_cost_nano_usd

    if found is None:
        costs = {
            name: case.costs[name]
            for name, one in case.targets.items()
            if name in case.learned
            or one.kind is not ModelKind.SPECIALIST
            or (case.classification.is_in_scope and name == case.classification.task)
        }
        refusable = asked.min_quality is not None and not asked.accepts_less
        assert refusable or min(costs.values()) > ceiling
        return
    chosen = next(one for one in found.candidates if one.target == found.target)
    able = [one for one in found.candidates if one.qualifies]
    assert chosen.may_answer
    assert chosen.expected_cost_nano_usd <= ceiling
    if found.reason is RouteReason.CHEAPEST:
        assert chosen.quality >= floor
        assert chosen.expected_cost_nano_usd == min(one.expected_cost_nano_usd for one in able)
    else:
        assert found.reason is RouteReason.BEST
        assert not able
        affordable = [
            one.quality
            for one in found.candidates
            if one.may_answer and one.expected_cost_nano_usd <= ceiling
        ]
        assert chosen.quality == max(affordable)


@given(cases(), ASKED)
def test_a_decision_is_made_once_and_for_all(case: Case, asked: Constraints) -> None:
    backwards = replace(case, targets=dict(reversed(case.targets.items())))
    assert case.route(asked) == case.route(asked)
    assert case.chosen(asked) == backwards.chosen(asked)


@given(cases(), QUALITIES, QUALITIES, LIMITS, st.booleans())
def test_asking_for_more_quality_never_gives_less(
    case: Case, one: float, other: float, limit: int | None, accepts_less: bool
) -> None:
    low, high = sorted((one, other))
    lower = case.chosen(Constraints(low, limit, accepts_less=accepts_less))
    higher = case.chosen(Constraints(high, limit, accepts_less=accepts_less))
    if higher:
        assert lower
        assert higher[0] >= lower[0]


@given(cases(), st.none() | QUALITIES, LIMITS, LIMITS, st.booleans())
def test_allowing_more_cost_never_gives_less_quality(
    case: Case, quality: float | None, one: int | None, other: int | None, accepts_less: bool
) -> None:
    low, high = sorted((one, other), key=lambda limit: 10**9 if limit is None else limit)
    tighter = case.chosen(Constraints(quality, low, accepts_less=accepts_less))
    looser = case.chosen(Constraints(quality, high, accepts_less=accepts_less))
    if tighter:
        assert looser
        assert looser[0] >= tighter[0]


@given(cases(), QUALITIES, COSTS, ASKED)
def test_a_new_specialist_makes_no_other_decision_dearer(
    case: Case, quality: float, cost: int, asked: Constraints
) -> None:
    """New: no outcomes, no traffic, and the prompt is another task's."""
    newcomer = Target("new", ModelKind.SPECIALIST, quality)
    scores = (*case.classification.scores, ("new", 0.05))
    after = replace(
        case,
        targets=case.targets | {"new": newcomer},
        costs=case.costs | {"new": cost},
        classification=replace(case.classification, scores=scores),
    )
    assert after.chosen(asked) == case.chosen(asked)


@given(cases(), QUALITIES, COSTS, ASKED)
def test_a_new_specialist_raises_no_cost_of_what_was_good_enough(
    case: Case, quality: float, cost: int, asked: Constraints
) -> None:
    """Whatever the prompt's task, its own too."""
    newcomer = Target("new", ModelKind.SPECIALIST, quality)
    after = replace(
        case,
        targets=case.targets | {"new": newcomer},
        costs=case.costs | {"new": cost},
        classification=Classification("new", 0.9, True, (("new", 0.9),)),
    )
    before = replace(case, classification=replace(case.classification, is_in_scope=False))
    was, now = before.route(asked), after.chosen(asked)
    if was and was.reason is RouteReason.CHEAPEST:
        assert now
        assert now[1] <= before.chosen(asked)[1]


KNOWN = Case(
    {
        "base": Target("base", ModelKind.BASE, 0.3),
        "sql": Target("sql", ModelKind.SPECIALIST, 0.9),
        "math": Target("math", ModelKind.SPECIALIST, 0.9),
        "poetry": Target("poetry", ModelKind.SPECIALIST, 1.0),
    },
    {"base": 0.5, "sql": 0.7, "math": 0.8},
    {"base": 1, "sql": 2, "math": 3, "poetry": 0},
    Classification("sql", 0.8, True, (("sql", 0.8), ("math", 0.1))),
    default_quality=0.6,
)


@pytest.mark.parametrize(
    ("asked", "model", "reason"),
    [
        (Constraints(), "sql", RouteReason.CHEAPEST),
        (Constraints(min_quality=0.5), "base", RouteReason.CHEAPEST),
        (Constraints(min_quality=0.75), "math", RouteReason.CHEAPEST),  # another task's
        (Constraints(max_cost_nano_usd=1), "base", RouteReason.BEST),
        (Constraints(0.95, 2, quality_is_default=True), "sql", RouteReason.BEST),
        (Constraints(0.95, accepts_less=True), "math", RouteReason.BEST),
    ],
)
def test_what_was_learned_decides(asked: Constraints, model: str, reason: RouteReason) -> None:
    found = KNOWN.route(asked)
    assert found
    assert (found.target.name, found.reason) == (model, reason)
    assert model in found.explanation


def test_what_callers_said_moves_the_choice() -> None:
    asked = Constraints(min_quality=0.75)
    assert KNOWN.route(asked).target.name == "math"
    praised = replace(KNOWN, heard=0.1)
    assert praised.route(asked).target.name == "sql"
    assert praised.chosen(asked)[0] == pytest.approx(0.8)


def test_what_a_request_asks_for_and_no_model_has_is_refused() -> None:
    assert KNOWN.route(Constraints(min_quality=0.95)) is None
    assert KNOWN.route(Constraints(max_cost_nano_usd=0)) is None  # poetry is not known to do sql


def test_before_anything_was_learned_the_task_decides() -> None:
    plain = Router(KNOWN.targets, fallback="base", min_quality=0.95)
    costs = Expectations(lambda target: KNOWN.costs[target.name])
    with pytest.raises(NoModelQualifies):
        plain.route(KNOWN.classification, Constraints(), costs)
    found = plain.route(KNOWN.classification, Constraints(accepts_less=True), costs)
    assert (found.target.name, found.reason) == ("sql", RouteReason.BEST)
