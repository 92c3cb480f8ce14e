"""Whom to ask for what was routed: one model, a cascade of two, or a mixture of several."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import replace

from deltafleet.v1 import worker_pb2
from gateway.answer import AnswerPiece, Source
from gateway.closed_apis.apis import ClosedApis
from gateway.escalation import Escalation, escalated, kept
from gateway.held_answer import HeldAnswer, besides
from gateway.mixture import Mixture, aggregating, ask_all, for_model, vote
from gateway.pooled_source import PooledSource
from gateway.router import Contribution, ModelKind, Route, Target
from model_pool.errors import DeadlineExceeded, FleetError
from model_pool.pool import Pool

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
