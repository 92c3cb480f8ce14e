"""Whom to ask for what was routed: one model, a cascade of two, or a mixture of several."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from deltafleet.v1 import worker_pb2
from gateway.answer import AnswerPiece, Source
from gateway.closed_apis.apis import ClosedApis
from gateway.errors import BudgetSpent
from gateway.escalation import Escalation, Verdict, escalated, kept
from gateway.held_answer import HeldAnswer, besides
from gateway.mixture import Mixture, aggregating, ask_all, for_model, mixed, vote
from gateway.pooled_source import PooledSource
from gateway.router import Route, Target
from gateway.traced import traced
from gateway.verifier import Verification
from model_pool.admission import to_ask
from model_pool.errors import DeadlineExceeded, FleetError
from model_pool.pool import Pool
from model_pool.tracing import Tracing

Steps = AsyncGenerator[Route | AnswerPiece, None]
log = logging.getLogger(__name__)


class Answering:
    """Answers what was routed."""

    def __init__(
        self,
        pool: Pool,
        closed_apis: ClosedApis,
        escalation: Escalation | None,
        mixtures: Mapping[str, Mixture],
        *,
        on_unweighed: Callable[[str], None],
        tracing: Tracing,
    ) -> None:
        """on_unweighed: told the model whose answer the cascade took without knowing how sure."""
        self._tracing = tracing
        self._pool = pool
        self._closed_apis = closed_apis
        self._escalation = escalation
        self._mixtures = mixtures
        self._on_unweighed = on_unweighed
        self._unweighed: set[str] = set()  # models whose last answer was

    def most_nano_usd(self, route: Route, request: worker_pb2.RunRequest) -> int:
        """What closed APIs that are asked at once may charge at most for this answer."""
        mixture = self._mixtures.get(route.target.name)
        names = mixture.specialists if mixture else (route.target.name,)
        asked = (for_model(request, name) for name in names if self._closed_apis.has(name))
        return sum(map(self._closed_apis.most_nano_usd, asked))

    def check_room(self, caller: str, priority: int) -> None:
        """Refuse at once what would be refused whichever model were asked, and so for little.

        Where closed APIs may answer, nothing is known yet. Raises PoolSaturated, CallerSaturated.
        """
        if not self._closed_apis.budgets:
            self._pool.check_room(to_ask("", caller, priority))

    def answer(
        self,
        route: Route,
        request: worker_pb2.RunRequest,
        settle: Callable[[AnswerPiece], None],
        *,
        session: str = "",
        may_hedge: bool = False,
    ) -> Steps:
        """The route as it stands in the end, then the answer; before it, costs without text.

        Between a decision for a closed API and holding its price nothing else may run, or others
        would spend what the decision counted on: so that comes first, before anything is awaited.
        settle, session, may_hedge: see PooledSource.
        """
        source = PooledSource(self._pool, settle, session=session, may_hedge=may_hedge)
        pooled = traced(source, self._tracing)
        mixture = self._mixtures.get(route.target.name)
        if mixture:
            return self._mixture(mixture, route, request, pooled)
        if self._escalation and self._escalation.covers(route):
            return self._cascade(self._escalation, route, request, pooled)
        if self._closed_apis.has(request.model):
            return self._closed(route, request, pooled)
        return _plain(route, request, pooled)

    async def _closed(self, route: Route, request: worker_pb2.RunRequest, pooled: Source) -> Steps:
        async with (
            self._source(request, pooled) as source,
            contextlib.aclosing(_plain(route, request, source)) as steps,
        ):
            async for step in steps:
                yield step

    async def _mixture(
        self, mixture: Mixture, route: Route, request: worker_pb2.RunRequest, pooled: Source
    ) -> Steps:
        """The answers are held back; only an aggregator's streams."""
        async with contextlib.AsyncExitStack() as reserved:
            sources, refusals = await self._members(mixture, request, pooled, reserved)
            held = {name: HeldAnswer() for name in sources}

            def ask(asked: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
                return sources[asked.model].generate(asked)

            async with contextlib.aclosing(ask_all(ask, request, held)) as costs:
                async for cost in costs:
                    yield cost
        yield mixed(route, held, refusals)
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

    async def _members(
        self,
        mixture: Mixture,
        request: worker_pb2.RunRequest,
        pooled: Source,
        reserved: contextlib.AsyncExitStack,
    ) -> tuple[dict[str, Source], list[BudgetSpent]]:
        """Who answers, its price held, and why others do not: a closed API's budget may be spent.

        Raises BudgetSpent where nobody is left.
        """
        sources: dict[str, Source] = {}
        refusals = []
        for name in mixture.specialists:
            try:
                source = self._source(for_model(request, name), pooled)
                sources[name] = await reserved.enter_async_context(source)
            except BudgetSpent as refusal:
                refusals.append(refusal)
        if not sources:
            raise refusals[0]
        return sources, refusals

    async def _cascade(
        self,
        escalation: Escalation,
        route: Route,
        request: worker_pb2.RunRequest,
        pooled: Source,
    ) -> Steps:
        """The first answer is held back until it is known to be the caller's."""
        first, said, model = HeldAnswer(), Verification(), route.target.name
        asked = for_model(request, model)
        asked.wants_logprob = escalation.verifier is None
        async with contextlib.aclosing(pooled.generate(asked)) as pieces:
            async for piece in pieces:
                yield first.add(piece)
        if not first.is_whole:
            return
        if escalation.verifier:
            verifying = said.ask(escalation.verifier, request, first, pooled.generate)
            async with contextlib.aclosing(verifying) as costs:
                async for cost in costs:
                    yield cost
        verdict = escalation.verdict(model, first, said)
        self._note(model, verdict)
        if verdict.is_enough:
            yield kept(route, verdict)
            yield besides(first.released(), said.answer)
            return
        others = (first, said.answer)
        async with contextlib.aclosing(
            self._escalate(escalation.to, route, request, others, verdict, pooled)
        ) as steps:
            async for step in steps:
                yield step

    def _note(self, model: str, verdict: Verdict) -> None:
        """Log once for as long as a model's answers cannot be weighed."""
        if verdict.is_known:
            self._unweighed.discard(model)
            return
        if model not in self._unweighed:
            self._unweighed.add(model)
            log.warning("answers_not_weighed", extra={"model": model})
        self._on_unweighed(model)

    async def _escalate(
        self,
        to: Target,
        route: Route,
        request: worker_pb2.RunRequest,
        others: tuple[HeldAnswer, HeldAnswer],
        verdict: Verdict,
        pooled: Source,
    ) -> Steps:
        """Where the other one fails before its first word, the first answer has to do.

        others: the first answer, and its verifier's.
        """
        other, spent = escalated(route, to, verdict), HeldAnswer()
        has_begun = False
        try:
            asked = for_model(request, to.name)
            async with (
                self._source(asked, pooled) as source,
                contextlib.aclosing(source.generate(asked)) as pieces,
            ):
                async for piece in pieces:
                    if not has_begun and (piece.text or piece.finish_reason):
                        has_begun = True
                        yield other
                    spent.add(piece)
                    yield besides(piece, *others)
        except FleetError as error:
            if has_begun or isinstance(error, DeadlineExceeded):
                raise
            yield kept(route, verdict, f"; {to.name} was to answer in its place, but: {error}")
            yield besides(others[0].released(), others[1], spent)

    @contextlib.asynccontextmanager
    async def _source(
        self, request: worker_pb2.RunRequest, pooled: Source
    ) -> AsyncIterator[Source]:
        """Where request.model answers. Raises BudgetSpent, LimitsUnavailable."""
        if self._closed_apis.has(request.model):
            async with self._closed_apis.reserved(request) as source:
                yield traced(source, self._tracing)
        else:
            yield pooled


async def _plain(route: Route, request: worker_pb2.RunRequest, source: Source) -> Steps:
    """The route is told with the first piece: what is refused was not begun for the caller,
    whose gRPC library may then ask again by itself.
    """
    is_told = False
    async with contextlib.aclosing(source.generate(request)) as pieces:
        async for piece in pieces:
            if not is_told:
                is_told = True
                yield route
            yield piece
