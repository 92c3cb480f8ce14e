"""The cascade: a specialist answers first, and another model where that is not good enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.confidence import Curve
from gateway.held_answer import HeldAnswer
from gateway.router import Contribution, Route, RouteReason, Target
from gateway.verifier import Verification, Verifier


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of a first answer.

    is_enough: it is the caller's. told: why, for people. is_known: whether anybody could tell.
    contributions: the answer and, where there is one, its verifier's.
    """

    is_enough: bool
    told: str
    contributions: tuple[Contribution, ...]
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Escalation:
    """When an answer is not good enough, and who answers then.

    curves: by specialist, those that are asked first. verifier: says whether an answer is right, in
    place of min_confidence.
    """

    to: Target
    min_confidence: float
    curves: Mapping[str, Curve]
    verifier: Verifier | None = None

    def covers(self, route: Route) -> bool:
        """Whether this answer is to be weighed: a model that the caller named answers as it can.

        The other one must have been weighed for the prompt too, and meet what the caller asks; and
        the verifier may be asked for this caller.
        """
        return (
            route.reason is not RouteReason.PINNED
            and route.target.name in self.curves
            and any(one.target == self.to and one.qualifies for one in route.candidates)
            and self._may_verify(route)
        )

    def _may_verify(self, route: Route) -> bool:
        if self.verifier is None or route.allowed is None:
            return True
        return self.verifier.model in route.allowed

    def verdict(self, model: str, answer: HeldAnswer, said: Verification) -> Verdict:
        """Whether a model's answer is the caller's. said: by the verifier, where there is one.

        Where nobody can tell, it is: a server that tells nothing must not send every prompt, and
        the budget, to somebody else's model.
        """
        if self.verifier is not None:
            return self._verified(self.verifier, model, answer, said)
        confidence = self._confidence(model, answer)
        found = (Contribution(model, answer.cost_nano_usd, confidence),)
        if confidence is None:
            told = "how sure it is of its answer is not known"
            return Verdict(True, told, found, is_known=False)
        if confidence >= self.min_confidence:
            return Verdict(True, f"it is sure of its answer by {confidence:.2f}", found)
        return Verdict(False, f"{model} was sure of its answer by only {confidence:.2f}", found)

    def _confidence(self, model: str, answer: HeldAnswer) -> float | None:
        """How sure the model is, where its engine tells."""
        told = answer.last.mean_logprob if answer.last else None
        if told is None or not math.isfinite(told):
            return None
        return self.curves[model].confidence(told)

    def _verified(
        self, verifier: Verifier, model: str, answer: HeldAnswer, said: Verification
    ) -> Verdict:
        name = verifier.model
        found = (
            Contribution(model, answer.cost_nano_usd),
            Contribution(name, said.answer.cost_nano_usd),
        )
        if said.fault:
            told = f"{name} was to say whether its answer is right, but: {said.fault}"
            return Verdict(True, told, found, is_known=False)
        if verifier.finds_right(said.answer.text):
            return Verdict(True, f"{name} finds its answer right", found)
        return Verdict(False, f"{name} did not find the answer of {model} right", found)


def kept(route: Route, verdict: Verdict, why: str = "") -> Route:
    """The route where the first answer is the caller's."""
    told = f"{route.explanation}; {verdict.told}{why}"
    return replace(route, explanation=told, contributions=verdict.contributions[1:])


def escalated(route: Route, to: Target, verdict: Verdict) -> Route:
    """The route where it is not."""
    return replace(
        route,
        target=to,
        reason=RouteReason.ESCALATED,
        explanation=f"{route.explanation}; {verdict.told}: to {to.name}",
        contributions=verdict.contributions,
    )
