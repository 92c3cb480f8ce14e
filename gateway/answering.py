"""Where answers come from: a worker of the pool, or the closed API. One seam for both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol

from deltafleet.v1 import worker_pb2
from gateway.closed_api import ClosedApiClient
from gateway.ledger import AnswerPiece
from gateway.pricing import time_cost_nano_usd
from gateway.router import ModelKind, Target
from model_pool.pool import Lease, Pool


class Source(Protocol):
    """Something leased that answers one request."""

    def generate(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[AnswerPiece, None]:
        """Stream the answer."""
        ...


class PooledSource:
    """A lease of a worker; its busy seconds are priced at the worker's price."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._request_id = ""
        self._last = worker_pb2.RunResponse()

    async def generate(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[AnswerPiece, None]:
        """See Source."""
        self._request_id = request.request_id
        async with contextlib.aclosing(self._lease.generate(request, timeout_s)) as responses:
            async for response in responses:
                self._last = response
                yield self._piece(response.text)

    async def rest(self) -> AnswerPiece | None:
        """What an answer that was broken off has used in all, where more than its pieces told."""
        if not self._request_id or self._last.finish_reason:
            return None
        used = await self._lease.settle(self._request_id)
        if used is None:
            return None
        self._last.prompt_token_count = used.prompt_token_count
        self._last.output_token_count = used.output_token_count
        self._last.busy_s = used.busy_s
        return self._piece("")

    def _piece(self, text: str) -> AnswerPiece:
        last, price = self._last, self._lease.price_nano_usd_per_hour
        return AnswerPiece(
            text=text,
            prompt_token_count=last.prompt_token_count,
            output_token_count=last.output_token_count,
            busy_s=last.busy_s,
            cost_nano_usd=time_cost_nano_usd(last.busy_s, price),
            worker=self._lease.worker,
            weights_digest=last.weights_digest,
            finish_reason=last.finish_reason,
            queue_s=last.queue_s if last.HasField("queue_s") else None,
        )


class Sources:
    """Leases what answers for a target."""

    def __init__(self, pool: Pool, closed_api: ClosedApiClient | None) -> None:
        self._pool = pool
        self._closed_api = closed_api

    @contextlib.asynccontextmanager
    async def lease(
        self, target: Target, settle: Callable[[AnswerPiece], None]
    ) -> AsyncIterator[Source]:
        """A place for one request. Raises what Pool.lease raises.

        settle: told what an answer that was broken off has used in all. The place is free by then.
        """
        if target.kind is ModelKind.CLOSED_API and self._closed_api:
            yield self._closed_api
            return
        source = None
        try:
            async with self._pool.lease(target.name) as lease:
                source = PooledSource(lease)
                yield source
        finally:
            rest = await source.rest() if source else None
            if rest is not None:
                settle(rest)
