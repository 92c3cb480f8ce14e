"""Routes on the wire."""

from __future__ import annotations

from deltafleet.v1 import routing_pb2
from gateway.router import Candidate, ModelKind, Route, RouteReason

KINDS = {
    ModelKind.SPECIALIST: routing_pb2.MODEL_KIND_SPECIALIST,
    ModelKind.BASE: routing_pb2.MODEL_KIND_BASE,
    ModelKind.CLOSED_API: routing_pb2.MODEL_KIND_CLOSED_API,
    ModelKind.MIXTURE: routing_pb2.MODEL_KIND_MIXTURE,
}
REASONS = {
    RouteReason.PINNED: routing_pb2.ROUTE_REASON_PINNED,
    RouteReason.CLASSIFIED: routing_pb2.ROUTE_REASON_CLASSIFIED,
    RouteReason.OUT_OF_SCOPE: routing_pb2.ROUTE_REASON_OUT_OF_SCOPE,
    RouteReason.CONSTRAINED: routing_pb2.ROUTE_REASON_CONSTRAINED,
    RouteReason.CHEAPEST: routing_pb2.ROUTE_REASON_CHEAPEST,
    RouteReason.BEST: routing_pb2.ROUTE_REASON_BEST,
    RouteReason.EXPLORED: routing_pb2.ROUTE_REASON_EXPLORED,
    RouteReason.ESCALATED: routing_pb2.ROUTE_REASON_ESCALATED,
}


def to_decision(route: Route, *, explain: bool) -> routing_pb2.Decision:
    """A route as callers see it. explain: with every model that was weighed."""
    return routing_pb2.Decision(
        model=route.target.name,
        kind=KINDS[route.target.kind],
        task=route.task,
        similarity=route.similarity,
        reason=REASONS[route.reason],
        explanation=route.explanation,
        candidates=map(_to_candidate, route.candidates if explain else ()),
        decided_by=route.decided_by,
        note=route.note,
        contributions=[
            routing_pb2.Contribution(
                model=one.model, cost_nano_usd=one.cost_nano_usd, confidence=one.confidence
            )
            for one in route.contributions
        ],
    )


def _to_candidate(one: Candidate) -> routing_pb2.Candidate:
    return routing_pb2.Candidate(
        model=one.target.name,
        similarity=one.similarity,
        quality=one.quality,
        expected_cost_nano_usd=one.expected_cost_nano_usd,
        qualifies=one.qualifies,
    )
