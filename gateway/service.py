"""The gRPC services that answer prompts, over the walk."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from deltafleet.v1 import inference_pb2, inference_pb2_grpc, routing_pb2, routing_pb2_grpc
from gateway.caller import Call, current_caller
from gateway.errors import FeedbackOff
from gateway.metrics import Metrics
from gateway.requests import read_score
from gateway.routing.feedback import Feedback
from gateway.walk import Event, Walker
from model_pool.call import own_request_id, request_id
from model_pool.traceparent import header_of


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Answers prompts."""

    def __init__(self, walk: Walker) -> None:
        self._walk = walk

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> inference_pb2.GenerateResponse:
        """The whole answer at once."""
        return await self._walk.whole(request, to_call(context, is_unary=True))

    def StreamGenerate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncGenerator[Event, None]:
        """Stream the answer of the model that fits the prompt."""
        return self._walk.stream(request, to_call(context))


class RoutingServicer(routing_pb2_grpc.RoutingServiceServicer):
    """Says where a prompt would go, and hears how good answers were."""

    def __init__(self, walk: Walker, feedback: Feedback | None, metrics: Metrics) -> None:
        self._walk = walk
        self._feedback = feedback
        self._metrics = metrics

    async def Route(
        self, request: routing_pb2.RouteRequest, context: Any
    ) -> routing_pb2.RouteResponse:
        """The decision, without generating."""
        return await self._walk.route(request, to_call(context))

    async def RecordFeedback(
        self, request: routing_pb2.RecordFeedbackRequest, context: Any
    ) -> routing_pb2.RecordFeedbackResponse:
        """Keep what a caller says of an answer."""
        score = read_score(request)
        if self._feedback is None:
            raise FeedbackOff("this fleet keeps no feedback: routing.feedback is not set")
        caller = current_caller.get()
        model, replaced = await self._feedback.record(
            request.request_id, score, request.model, caller.name if caller.is_proven else None
        )
        self._metrics.feedback.labels(model, "again" if replaced else "first").inc()
        self._metrics.feedback_score.labels(model).inc(score)
        return routing_pb2.RecordFeedbackResponse(model=model, replaced=replaced)


def to_call(context: Any, *, is_unary: bool = False) -> Call:
    """What the frame and the admission found out about the call that is being handled."""
    metadata = context.invocation_metadata()
    return Call(
        request_id.get(),
        current_caller.get(),
        has_own_id=bool(own_request_id(metadata)),
        is_unary=is_unary,
        traceparent=header_of(metadata),
    )
