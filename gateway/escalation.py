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
        """How sure the model is, where its engine tells."""
        told = answer.last.mean_logprob if answer.last else None
        if told is None or not math.isfinite(told):
            return Contribution(model, answer.cost_nano_usd)
        return Contribution(model, answer.cost_nano_usd, self.curves[model].confidence(told))

    def is_enough(self, found: Contribution) -> bool:
        """Whether the answer is the caller's. Where nobody tells how sure it is, it is: a server
        that tells nothing must not send every prompt, and the budget, to somebody else's model.
        """
        return found.confidence is None or found.confidence >= self.min_confidence


def kept(route: Route, found: Contribution, why: str) -> Route:
    """The route where the first answer is the caller's."""
    sure = "how sure it is of its answer is not known"
    if found.confidence is not None:
        sure = f"it is sure of its answer by {found.confidence:.2f}"
    return replace(route, explanation=f"{route.explanation}; {sure}{why}")


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
