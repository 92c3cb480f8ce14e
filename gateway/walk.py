"""The walk of one request: receive, classify, route, lease, generate, account.

Every door leads here; what a door is (gRPC, HTTP) is not known in this file.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection
from functools import partial
from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2
from gateway.answer import AnswerPiece
from gateway.answering import Answering
from gateway.caller import Call
from gateway.decisions import to_decision
from gateway.entry import Entry
from gateway.in_use import InUse
from gateway.ledger import Ledger
from gateway.limits.limiter import Limiter
from gateway.repeats import Repeats
from gateway.requests import Conversation, check_sampling, read_conversation, to_run
from gateway.route_planner import RoutePlanner
from gateway.router import Route
from gateway.routing.feedback import Feedback
from gateway.shared_repeats import Seal, seal_nothing
from gateway.traced import in_request_span, tell_entry, tell_route
from gateway.whole_answer import WholeAnswer
from model_pool.call import to_its_end
from model_pool.errors import WorkerLost
from model_pool.tracing import Tracing

Event = inference_pb2.StreamGenerateResponse


class Walker(Protocol):
    """What doors lead to: a walk, or the one that is in force at the time."""

    async def route(
        self, request: routing_pb2.RouteRequest, call: Call
    ) -> routing_pb2.RouteResponse:
        """Where a prompt would go, without generating."""
        ...

    async def whole(
        self, request: inference_pb2.GenerateRequest, call: Call
    ) -> inference_pb2.GenerateResponse:
        """The whole answer at once."""
        ...

    def stream(
        self, request: inference_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[Event, None]:
        """Stream the answer of the model that fits the prompt: decision, texts, summary."""
        ...


class Walk:
    """Answers prompts."""

    def __init__(
        self,
        planner: RoutePlanner,
        answering: Answering,
        ledger: Ledger,
        feedback: Feedback | None,
        repeats: Repeats,
        in_use: InUse,
        tracing: Tracing,
        limiter: Limiter,
        *,
        default_output_token_count: int,
        stale_baselines: Callable[[], Collection[str]],
    ) -> None:
        self._planner = planner
        self._stale_baselines = stale_baselines
        self._answering = answering
        self._ledger = ledger
        self._feedback = feedback
        self._repeats = repeats
        self._in_use = in_use
        self._tracing = tracing
        self._limiter = limiter
        self._default_output_token_count = default_output_token_count

    async def route(
        self, request: routing_pb2.RouteRequest, call: Call
    ) -> routing_pb2.RouteResponse:
        """Where a prompt would go, without generating."""
        with self._in_use:
            async with self._limiter.admitted(call, request):
                route = await self._planner.plan(request, read_conversation(request), call)
        return routing_pb2.RouteResponse(decision=to_decision(route, explain=True))

    async def whole(
        self, request: inference_pb2.GenerateRequest, call: Call
    ) -> inference_pb2.GenerateResponse:
        """The whole answer at once."""
        answer = WholeAnswer()
        async with contextlib.aclosing(self.stream(request, call)) as events:
            async for event in events:
                answer.add(event)
        return answer.response()

    def stream(
        self, request: inference_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[Event, None]:
        """Stream the answer of the model that fits the prompt: decision, texts, summary."""
        if call.has_own_id:
            begin = partial(self._begin, request, call)
            return self._repeats.stream(request, call, begin, self._in_use.during)
        return self._begin(request, call)

    def _begin(
        self, request: inference_pb2.GenerateRequest, call: Call, seal: Seal = seal_nothing
    ) -> AsyncGenerator[Event, None]:
        events = self._walk(request, call, seal)
        if self._tracing.is_on:
            return in_request_span(self._tracing, call, request.model, events)
        return events

    async def _plan(
        self, request: inference_pb2.GenerateRequest, conversation: Conversation, call: Call
    ) -> Route:
        if request.model:
            route = self._planner.pinned(request.model, call.caller)
        self._answering.check_room(call.caller.name, request.priority)
        if request.model:
            return route
        with self._tracing.span("route") as span:
            route = await self._planner.plan(request, conversation, call)
            tell_route(span, route)
            return route

    async def _walk(
        self, request: inference_pb2.GenerateRequest, call: Call, seal: Seal
    ) -> AsyncGenerator[Event, None]:
        """In one generator: each piece would pass through every other one around it."""
        with self._in_use:
            async with self._limiter.admitted(call, request) as allowance:
                conversation = read_conversation(request)
                check_sampling(request)
                route = await self._plan(request, conversation, call)
                run = self._to_run(request, conversation, call, route)
                await allowance.hold(self._answering.most_nano_usd(route, run))
                async with (
                    self._ledger.entry(
                        call.request_id, route, conversation.texts, caller=call.caller.name
                    ) as entry,
                    contextlib.aclosing(
                        self._answering.answer(
                            route,
                            run,
                            entry.settle,
                            session=request.session,
                            may_hedge=call.is_unary,
                        )
                    ) as steps,
                ):
                    allowance.follow(entry)
                    async for step in steps:
                        if isinstance(step, Route):
                            entry.route = step
                            yield Event(decision=to_decision(step, explain=request.explain))
                            continue
                        refusal = await allowance.charge(step)
                        entry.add(step)
                        if step.text:
                            yield Event(text=step.text)
                        if refusal:
                            raise refusal
                    await self._account(entry, call, seal)
                    self._remember(entry, call, route)
                    yield Event(summary=_to_summary(entry, self._stale_baselines()))

    def _to_run(
        self,
        request: inference_pb2.GenerateRequest,
        conversation: Conversation,
        call: Call,
        route: Route,
    ) -> worker_pb2.RunRequest:
        return to_run(
            request,
            conversation,
            request_id=call.request_id,
            model=route.target.name,
            default_output_token_count=self._default_output_token_count,
            caller=call.caller.name,
        )

    async def _account(self, entry: Entry, call: Call, seal: Seal) -> None:
        check_whole(entry)
        tell_entry(self._tracing, entry)
        if call.has_own_id:
            # One that may be asked again must not be in the ledger and yet be forgotten.
            await to_its_end(self._finish(entry, seal))
        else:
            await self._ledger.finish(entry)

    async def _finish(self, entry: Entry, seal: Seal) -> None:
        await seal()
        await self._ledger.finish(entry)

    def _remember(self, entry: Entry, call: Call, route: Route) -> None:
        """What callers may score."""
        if self._feedback:
            name = entry.route.target.name
            self._feedback.answered(call.request_id, name, route.task, route.row, call.caller.name)


def check_whole(entry: Entry) -> AnswerPiece:
    """The last piece of a whole answer. Raises WorkerLost where the end is missing."""
    if entry.last is None or not entry.last.finish_reason:
        raise WorkerLost("the answer broke off before its end")
    return entry.last


def _to_summary(entry: Entry, stale: Collection[str]) -> inference_pb2.Summary:
    last = check_whole(entry)
    return inference_pb2.Summary(
        request_id=entry.request_id,
        finish_reason=last.finish_reason,
        prompt_token_count=last.prompt_token_count,
        output_token_count=last.output_token_count,
        cost_nano_usd=last.cost_nano_usd,
        baselines=[
            inference_pb2.BaselineCost(
                baseline=name, cost_nano_usd=cost, price_is_stale=name in stale
            )
            for name, cost in entry.baselines.items()
        ],
        time_to_first_token=_duration(entry.first_token_s or entry.total_s),
        total_time=_duration(entry.total_s),
        worker=last.worker,
        weights_digest=last.weights_digest,
        mean_logprob=last.mean_logprob,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
