"""Request → classified, weighed, routed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.caller import Call, Caller
from gateway.classifier import Classification, Classifier
from gateway.forecast import AnswerForecast
from gateway.identity.models import AllowedModels
from gateway.metrics import Metrics
from gateway.requests import Conversation, read_constraints
from gateway.router import Constraints, Route, Router
from gateway.routing.chats import Hysteresis, settle, used_turns
from gateway.routing.exploration import explored
from model_pool.errors import FleetError

log = logging.getLogger(__name__)
UNKNOWN = Classification(
    *("", 0.0, False, ()), decided_by="fallback", note="the prompt could not be classified"
)
ALL_MODELS = AllowedModels({})


Request = inference_pb2.GenerateRequest | routing_pb2.RouteRequest
Refusal = Callable[[str, Iterable[routing_pb2.ChatMessage], int], FleetError | None]


def nothing_refused(
    model: str, messages: Iterable[routing_pb2.ChatMessage], max_output_token_count: int
) -> FleetError | None:
    """Any model can be asked."""
    return None


@dataclass(frozen=True, slots=True)
class Habits:
    """What fleet.yaml says of routing.

    callers: what holds for each where its request does not say. exploration: the share of requests
    that try another model, 0 to 1. weighs_all: whether somebody has to know of every model how it
    was weighed; else only requests that ask for it.
    """

    callers: Mapping[str, Constraints]
    hysteresis: Hysteresis
    exploration: float = 0.0
    weighs_all: bool = True


class RoutePlanner:
    """Classify and route: what every call begins with.

    refusal: why a model cannot be asked now, by its name, the messages and the longest answer in
    tokens (0: not limited). allowed_models: says which may answer a caller.
    """

    def __init__(
        self,
        classifier: Classifier,
        router: Router,
        forecast: AnswerForecast,
        habits: Habits,
        metrics: Metrics,
        refusal: Refusal = nothing_refused,
        allowed_models: AllowedModels = ALL_MODELS,
    ) -> None:
        self._classifier = classifier
        self._router = router
        self._forecast = forecast
        self._habits = habits
        self._metrics = metrics
        self._refusal = refusal
        self._allowed_models = allowed_models

    async def plan(
        self,
        request: Request,
        conversation: Conversation,
        call: Call,
    ) -> Route:
        """The route of a conversation. Raises InvalidParameter, NoModelQualifies.

        Raises PermissionDenied where only models would do that may not answer the caller.
        """
        caller = self._habits.callers.get(call.caller.name, Constraints())
        constraints = read_constraints(request.constraints, caller)
        turns = used_turns(conversation.user_turns)
        settled = settle(turns, await self._classify(turns), self._habits.hysteresis)
        classification, expected = self._forecast.expectations(
            turns[settled.turn],
            settled.classification,
            prompt_character_count=conversation.character_count,
            max_output_token_count=_longest(request),
        )
        longest = _longest(request)
        allowed = call.caller.models
        if allowed is not None or self._refusal is not nothing_refused:

            def refusal(model: str) -> FleetError | None:
                forbidden = self._allowed_models.refusal(model, allowed)
                return forbidden or self._refusal(model, conversation.messages, longest)

            expected = replace(expected, refusal=refusal)
        route = self._router.route(
            classification, constraints, expected, weighs_all=self._weighs_all(request)
        )
        if len(turns) == 1:  # a conversation that has begun is no place to try things
            route = explored(route, call.request_id, self._habits.exploration)
        return self._counted(_as_of(_allowed(route, allowed), settled.turn, len(turns)))

    def _weighs_all(self, request: Request) -> bool:
        if self._habits.weighs_all or self._habits.exploration:
            return True
        return isinstance(request, routing_pb2.RouteRequest) or request.explain

    def pinned(self, model: str, caller: Caller) -> Route:
        """The route to the model that the caller named. Raises UnknownModel, PermissionDenied."""
        route = self._router.pinned(model)
        if forbidden := self._allowed_models.refusal(model, caller.models):
            raise forbidden
        return self._counted(_allowed(route, caller.models))

    async def _classify(self, turns: Sequence[str]) -> Sequence[Classification]:
        try:
            if len(turns) == 1:  # the usual case, without a task of its own
                return [await self._classifier.classify(turns[0])]
            return await asyncio.gather(*map(self._classifier.classify, turns))
        except Exception:  # a decision never fails a request
            log.exception("classify_failed")
            return [UNKNOWN] * len(turns)

    def _counted(self, route: Route) -> Route:
        self._metrics.route_decisions.labels(route.decided_by, route.reason.value).inc()
        return route


def _allowed(route: Route, allowed: frozenset[str] | None) -> Route:
    return route if allowed is None else replace(route, allowed=allowed)


def _longest(request: Request) -> int:
    """Tokens of the longest answer; 0: not limited."""
    if isinstance(request, inference_pb2.GenerateRequest):
        return request.max_output_token_count
    return 0


def _as_of(route: Route, turn: int, turn_count: int) -> Route:
    if turn + 1 == turn_count:
        return route
    since = f"as of user turn {turn + 1} of the {turn_count} that were read"
    return replace(route, explanation=f"{route.explanation}; {since}")
