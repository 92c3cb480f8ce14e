"""Where answers come from: a worker of the pool, or a closed API. One seam for both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Protocol

from deltafleet.v1 import worker_pb2
from gateway.closed_apis.apis import ClosedApis
from gateway.ledger import AnswerPiece
from gateway.pricing import time_cost_nano_usd
from gateway.router import ModelKind, Route
from model_pool.pool import Pool
from model_pool.rpc import time_left_s


class Source(Protocol):
    """What answers one request."""

    def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """Stream the answer, within the call's deadline."""
        ...


class PooledSource:
    """A worker, leased for the answer; its busy seconds are priced at the worker's price."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """See Source. Raises what Pool.lease raises."""
        async with (
            self._pool.lease(request.model) as lease,
            contextlib.aclosing(lease.generate(request, time_left_s())) as responses,
        ):
            async for response in responses:
                price = lease.price_nano_usd_per_hour
                yield AnswerPiece(
                    text=response.text,
                    prompt_token_count=response.prompt_token_count,
                    output_token_count=response.output_token_count,
                    cost_nano_usd=time_cost_nano_usd(response.busy_s, price),
                    finish_reason=response.finish_reason,
                    busy_s=response.busy_s,
                    worker=lease.worker,
                    weights_digest=response.weights_digest,
                )


class Answering:
    """Answers what was routed."""

    def __init__(self, pool: Pool, closed_apis: ClosedApis) -> None:
        self._pool = pool
        self._closed_apis = closed_apis

    async def answer(
        self, route: Route, request: worker_pb2.RunRequest
    ) -> AsyncGenerator[Route | AnswerPiece, None]:
        """The route as it stands in the end, then the answer.

        Between a decision for a closed API and holding its price nothing else may run, or others
        would spend what the decision counted on: so that comes first, before anything is awaited.
        """
        with self._source(route, request) as source:
            yield route
            async with contextlib.aclosing(source.generate(request)) as pieces:
                async for piece in pieces:
                    yield piece

    @contextlib.contextmanager
    def _source(self, route: Route, request: worker_pb2.RunRequest) -> Iterator[Source]:
        if route.target.kind is ModelKind.CLOSED_API:
            with self._closed_apis.reserved(request) as source:
                yield source
        else:
            yield PooledSource(self._pool)
