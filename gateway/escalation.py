"""The cascade: a specialist answers first, and who is surer answers where it is not sure enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.confidence import Curve
from gateway.held_answer import HeldAnswer
from gateway.router import Contribution, Route, RouteReason, Target


@dataclass(frozen=True, slots=True)
class Escalation:
    """When an answer is not good enough, and who answers then.

    curves: by specialist, those that are asked first.
    """

    to: Target
    min_confidence: float
    curves: Mapping[str, Curve]

    def covers(self, route: Route) -> bool:
        """Whether this answer is to be weighed: a model that the caller named answers as it can.

        The other one must have been weighed for the prompt too, and meet what the caller asks.
        """
        return (
            route.reason is not RouteReason.PINNED
            and route.target.name in self.curves
            and any(one.target == self.to and one.qualifies for one in route.candidates)
        )

    def contribution(self, model: str, answer: HeldAnswer) -> Contribution:
        """How sure the model is. A confidence that is not known is none."""
        told = answer.last.mean_logprob if answer.last else None
        known = told is not None and math.isfinite(told)
        confidence = self.curves[model].confidence(told) if known and told is not None else 0.0
        return Contribution(model, answer.cost_nano_usd, confidence)

    def is_enough(self, found: Contribution) -> bool:
        """Whether the answer is the caller's."""
        return (found.confidence or 0.0) >= self.min_confidence


def kept(route: Route, found: Contribution, why: str) -> Route:
    """The route where the first answer is the caller's."""
    told = f"{route.explanation}; it is sure of its answer by {found.confidence or 0:.2f}{why}"
    return replace(route, explanation=told)


def escalated(route: Route, to: Target, found: Contribution) -> Route:
    """The route where it is not."""
    told = (
        f"{route.explanation}; {found.model} was sure of its answer by only "
        f"{found.confidence or 0:.2f}: to {to.name}"
    )
    return replace(
        route,
        target=to,
        reason=RouteReason.ESCALATED,
        explanation=told,
        contributions=(found,),
    )
