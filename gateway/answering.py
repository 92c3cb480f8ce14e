"""Where answers come from: a worker of the pool, or a closed API. One seam for both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from deltafleet.v1 import worker_pb2
from gateway.closed_apis.apis import ClosedApis
from gateway.confidence import Curve
from gateway.escalation import Escalation, escalated, kept
from gateway.held_answer import HeldAnswer, besides
from gateway.ledger import AnswerPiece
from gateway.mixture import (
    DEFAULT_PROMPT,
    VOTE,
    Mixture,
    aggregating,
    ask_all,
    for_model,
    vote,
)
from gateway.pricing import time_cost_nano_usd
from gateway.router import Contribution, ModelKind, Route, Target
from gateway.settings import Settings
from model_pool.errors import DeadlineExceeded, FleetError
from model_pool.pool import Lease, Pool
from model_pool.rpc import time_left_s


class Source(Protocol):
    """What answers one request."""

    def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """Stream the answer, within the call's deadline."""
        ...


class PooledSource:
    """A worker, leased for the answer; its busy seconds are priced at the worker's price."""

    def __init__(self, pool: Pool, settle: Callable[[AnswerPiece], None]) -> None:
        """settle: told what an answer that was broken off used beyond what its pieces told."""
        self._pool = pool
        self._settle = settle

    async def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """See Source. Raises what Pool.lease raises."""
        lease, last = None, worker_pb2.RunResponse()
        try:
            async with (
                self._pool.lease(request.model) as lease,
                contextlib.aclosing(lease.generate(request, time_left_s())) as responses,
            ):
                async for last in responses:
                    yield _piece(lease, last)
        finally:  # its place is free by now
            if lease is not None and not last.finish_reason:
                await self._tell_rest(lease, request, last)

    async def _tell_rest(
        self, lease: Lease, request: worker_pb2.RunRequest, last: worker_pb2.RunResponse
    ) -> None:
        used = await lease.settle(request)
        if used is None:
            return
        rest = worker_pb2.RunResponse(
            prompt_token_count=used.prompt_token_count - last.prompt_token_count,
            output_token_count=used.output_token_count - last.output_token_count,
            busy_s=used.busy_s - last.busy_s,
            weights_digest=last.weights_digest,
        )
        self._settle(_piece(lease, rest))


def _piece(lease: Lease, response: worker_pb2.RunResponse) -> AnswerPiece:
    return AnswerPiece(
        text=response.text,
        prompt_token_count=response.prompt_token_count,
        output_token_count=response.output_token_count,
        cost_nano_usd=time_cost_nano_usd(response.busy_s, lease.price_nano_usd_per_hour),
        finish_reason=response.finish_reason,
        busy_s=response.busy_s,
        worker=lease.worker,
        weights_digest=response.weights_digest,
        mean_logprob=response.mean_logprob if response.HasField("mean_logprob") else None,
        queue_s=response.queue_s if response.HasField("queue_s") else None,
    )


def make_escalation(
    settings: Settings, targets: Mapping[str, Target], curve: Curve
) -> Escalation | None:
    """None where fleet.yaml has none. curve: how sure answers are, of every specialist."""
    asked = settings.routing.escalation
    if asked is None:
        return None
    specialists = asked.specialists or tuple(settings.specialists)
    return Escalation(targets[asked.to], asked.min_confidence, dict.fromkeys(specialists, curve))


def make_mixtures(settings: Settings) -> dict[str, Mixture]:
    """By name."""
    return {
        name: Mixture(
            one.specialists,
            None if one.aggregator == VOTE else one.aggregator,
            one.prompt or DEFAULT_PROMPT,
        )
        for name, one in settings.mixtures.items()
    }


Steps = AsyncGenerator[Route | AnswerPiece, None]


class Answering:
    """Answers what was routed."""

    def __init__(
        self,
        pool: Pool,
        closed_apis: ClosedApis,
        escalation: Escalation | None,
        mixtures: Mapping[str, Mixture],
    ) -> None:
        self._pool = pool
        self._closed_apis = closed_apis
        self._escalation = escalation
        self._mixtures = mixtures

    async def answer(
        self,
        route: Route,
        request: worker_pb2.RunRequest,
        settle: Callable[[AnswerPiece], None],
    ) -> Steps:
        """The route as it stands in the end, then the answer; before it, costs without text.

        Between a decision for a closed API and holding its price nothing else may run, or others
        would spend what the decision counted on: so that comes first, before anything is awaited.
        settle: see PooledSource.
        """
        pooled = PooledSource(self._pool, settle)
        mixture = self._mixtures.get(route.target.name)
        if mixture:
            steps = self._mixture(mixture, route, request, pooled)
        elif self._escalation and self._escalation.covers(route):
            steps = self._cascade(self._escalation, route, request, pooled)
        else:
            steps = self._plain(route, request, pooled)
        async with contextlib.aclosing(steps):
            async for step in steps:
                yield step

    async def _plain(
        self, route: Route, request: worker_pb2.RunRequest, pooled: PooledSource
    ) -> Steps:
        with self._source(route, request, pooled) as source:
            yield route
            async with contextlib.aclosing(source.generate(request)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _mixture(
        self, mixture: Mixture, route: Route, request: worker_pb2.RunRequest, pooled: PooledSource
    ) -> Steps:
        """The answers are held back; only an aggregator's streams."""
        held = {name: HeldAnswer() for name in mixture.specialists}
        async with contextlib.aclosing(ask_all(pooled.generate, request, held)) as costs:
            async for cost in costs:
                yield cost
        told = [Contribution(name, one.cost_nano_usd) for name, one in held.items()]
        yield replace(route, contributions=tuple(told))
        answers = list(held.values())
        texts = [one.text for one in answers]
        if mixture.aggregator is None:
            winner = answers.pop(vote(texts))
            yield besides(winner.released(), *answers)
            return
        asked = aggregating(request, mixture, texts)
        async with contextlib.aclosing(pooled.generate(asked)) as pieces:
            async for piece in pieces:
                yield besides(piece, *answers)

    async def _cascade(
        self,
        escalation: Escalation,
        route: Route,
        request: worker_pb2.RunRequest,
        pooled: PooledSource,
    ) -> Steps:
        """The first answer is held back until it is known to be the caller's."""
        first = HeldAnswer()
        asked = for_model(request, route.target.name)
        asked.wants_logprob = True
        async with contextlib.aclosing(pooled.generate(asked)) as pieces:
            async for piece in pieces:
                yield first.add(piece)
        if not first.is_whole:
            return
        found = escalation.contribution(route.target.name, first)
        if escalation.is_enough(found):
            yield kept(route, found, "")
            yield first.released()
            return
        async with contextlib.aclosing(
            self._escalate(escalation.to, route, request, first, found, pooled)
        ) as steps:
            async for step in steps:
                yield step

    async def _escalate(
        self,
        to: Target,
        route: Route,
        request: worker_pb2.RunRequest,
        first: HeldAnswer,
        found: Contribution,
        pooled: PooledSource,
    ) -> Steps:
        """Where the other one fails before its first word, the first answer has to do."""
        other, spent = escalated(route, to, found), HeldAnswer()
        has_begun = False
        try:
            asked = for_model(request, to.name)
            with self._source(other, asked, pooled) as source:
                async with contextlib.aclosing(source.generate(asked)) as pieces:
                    async for piece in pieces:
                        if not has_begun and (piece.text or piece.finish_reason):
                            has_begun = True
                            yield other
                        spent.add(piece)
                        yield besides(piece, first)
        except FleetError as error:
            if has_begun or isinstance(error, DeadlineExceeded):
                raise
            yield kept(route, found, f"; {to.name} was to answer in its place, but: {error}")
            yield besides(first.released(), spent)

    @contextlib.contextmanager
    def _source(
        self, route: Route, request: worker_pb2.RunRequest, pooled: PooledSource
    ) -> Iterator[Source]:
        if route.target.kind is ModelKind.CLOSED_API:
            with self._closed_apis.reserved(request) as source:
                yield source
        else:
            yield pooled
