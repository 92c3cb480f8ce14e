"""Where answers come from: a worker of the pool, or the closed API. One seam for both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
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

    async def generate(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[AnswerPiece, None]:
        """See Source."""
        async with contextlib.aclosing(self._lease.generate(request, timeout_s)) as responses:
            async for response in responses:
                price = self._lease.price_nano_usd_per_hour
                yield AnswerPiece(
                    text=response.text,
                    prompt_token_count=response.prompt_token_count,
                    output_token_count=response.output_token_count,
                    busy_s=response.busy_s,
                    cost_nano_usd=time_cost_nano_usd(response.busy_s, price),
                    worker=self._lease.worker,
                    weights_digest=response.weights_digest,
                    finish_reason=response.finish_reason,
                    queue_s=response.queue_s if response.HasField("queue_s") else None,
                )


class Sources:
    """Leases what answers for a target."""

    def __init__(self, pool: Pool, closed_api: ClosedApiClient | None) -> None:
        self._pool = pool
        self._closed_api = closed_api

    @contextlib.asynccontextmanager
    async def lease(self, target: Target) -> AsyncIterator[Source]:
        """A place for one request. Raises what Pool.lease raises."""
        if target.kind is ModelKind.CLOSED_API and self._closed_api:
            yield self._closed_api
            return
        async with self._pool.lease(target.name) as lease:
            yield PooledSource(lease)
