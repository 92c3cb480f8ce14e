"""The walk of one request: receive, classify, route, lease, generate, account."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration

from deltafleet.v1 import inference_pb2, inference_pb2_grpc, routing_pb2, routing_pb2_grpc
from gateway.answering import Sources
from gateway.classifier import Classifier
from gateway.decisions import to_decision
from gateway.forecast import AnswerForecast
from gateway.ledger import AnswerPiece, Entry, Ledger
from gateway.requests import (
    Conversation,
    check_sampling,
    read_caller,
    read_constraints,
    read_conversation,
    to_run,
)
from gateway.router import Constraints, Route, Router
from model_pool.errors import WorkerLost
from model_pool.rpc import request_id, time_left_s

Event = inference_pb2.StreamGenerateResponse


class RoutePlanner:
    """Classify and route: what every call begins with.

    callers: what holds for each where its request does not say.
    """

    def __init__(
        self,
        classifier: Classifier,
        router: Router,
        forecast: AnswerForecast,
        callers: Mapping[str, Constraints],
    ) -> None:
        self._classifier = classifier
        self._router = router
        self._forecast = forecast
        self._callers = callers

    async def plan(
        self,
        request: inference_pb2.GenerateRequest | routing_pb2.RouteRequest,
        conversation: Conversation,
        context: Any,
    ) -> Route:
        """The route of a conversation. Raises InvalidParameter, NoModelQualifies."""
        caller = self._callers.get(read_caller(context.invocation_metadata()), Constraints())
        constraints = read_constraints(request.constraints, caller)
        longest = (
            request.max_output_token_count
            if isinstance(request, inference_pb2.GenerateRequest)
            else 0
        )
        classification, expected = self._forecast.expectations(
            conversation.question,
            await self._classifier.classify(conversation.question),
            prompt_character_count=conversation.character_count,
            max_output_token_count=longest,
        )
        return self._router.route(classification, constraints, expected)

    def pinned(self, model: str) -> Route:
        """The route to the model that the caller named. Raises UnknownModel."""
        return self._router.pinned(model)


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Answers prompts."""

    def __init__(
        self,
        planner: RoutePlanner,
        sources: Sources,
        ledger: Ledger,
        *,
        default_output_token_count: int,
    ) -> None:
        self._planner = planner
        self._sources = sources
        self._ledger = ledger
        self._default_output_token_count = default_output_token_count

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> inference_pb2.GenerateResponse:
        """The whole answer at once."""
        response = inference_pb2.GenerateResponse()
        texts = []
        async with contextlib.aclosing(self.StreamGenerate(request, context)) as events:
            async for event in events:
                if event.HasField("decision"):
                    response.decision.CopyFrom(event.decision)
                elif event.HasField("summary"):
                    response.summary.CopyFrom(event.summary)
                else:
                    texts.append(event.text)
        response.text = "".join(texts)
        return response

    async def StreamGenerate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncGenerator[Event, None]:
        """Stream the answer of the model that fits the prompt."""
        conversation = read_conversation(request)
        check_sampling(request)
        if request.model:
            route = self._planner.pinned(request.model)
        else:
            route = await self._planner.plan(request, conversation, context)
        name = request_id.get()
        run = to_run(
            request,
            conversation,
            request_id=name,
            model=route.target.name,
            default_output_token_count=self._default_output_token_count,
        )
        async with self._ledger.entry(name, route, conversation.character_count) as entry:
            yield Event(decision=to_decision(route, explain=request.explain))
            async with (
                self._sources.lease(route.target) as source,
                contextlib.aclosing(source.generate(run, time_left_s())) as pieces,
            ):
                async for piece in pieces:
                    entry.add(piece)
                    if piece.text:
                        yield Event(text=piece.text)
            check_whole(entry)
            await self._ledger.finish(entry)
            yield Event(summary=_to_summary(entry))


class RoutingServicer(routing_pb2_grpc.RoutingServiceServicer):
    """Says where a prompt would go."""

    def __init__(self, planner: RoutePlanner) -> None:
        self._planner = planner

    async def Route(
        self, request: routing_pb2.RouteRequest, context: Any
    ) -> routing_pb2.RouteResponse:
        """The decision, without generating."""
        route = await self._planner.plan(request, read_conversation(request), context)
        return routing_pb2.RouteResponse(decision=to_decision(route, explain=True))


def check_whole(entry: Entry) -> AnswerPiece:
    """The last piece of a whole answer. Raises WorkerLost where the end is missing."""
    if entry.last is None or not entry.last.finish_reason:
        raise WorkerLost("the answer broke off before its end")
    return entry.last


def _to_summary(entry: Entry) -> inference_pb2.Summary:
    last = check_whole(entry)
    return inference_pb2.Summary(
        request_id=entry.request_id,
        finish_reason=last.finish_reason,
        prompt_token_count=last.prompt_token_count,
        output_token_count=last.output_token_count,
        cost_nano_usd=last.cost_nano_usd,
        baselines=[
            inference_pb2.BaselineCost(baseline=name, cost_nano_usd=cost)
            for name, cost in entry.baselines.items()
        ],
        time_to_first_token=_duration(entry.first_token_s or entry.total_s),
        total_time=_duration(entry.total_s),
        worker=last.worker,
        weights_digest=last.weights_digest,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
