"""Answers from a worker of the pool."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from deltafleet.v1 import inference_pb2, worker_pb2
from gateway.answer import AnswerPiece
from gateway.pricing import time_cost_nano_usd
from model_pool.admission import ask_of
from model_pool.attempt import Spent
from model_pool.call import time_left_s
from model_pool.lease import Lease
from model_pool.pool import Pool

NOTHING_YET = AnswerPiece("", 0, 0, 0, inference_pb2.FINISH_REASON_UNSPECIFIED)


class PooledSource:
    """A worker, leased for the answer; its busy seconds are priced at the worker's price.

    Where a request was given to a second worker, its last piece is charged with what the first one
    computed.
    """

    def __init__(
        self,
        pool: Pool,
        settle: Callable[[AnswerPiece], None],
        *,
        session: str = "",
        may_hedge: bool = False,
    ) -> None:
        """settle: told what an answer that was broken off used beyond what its pieces told.

        session: see GenerateRequest. may_hedge: whether its answers come whole, so that a second
        worker may be asked where the first one takes long.
        """
        self._pool = pool
        self._settle = settle
        self._session = session
        self._may_hedge = may_hedge

    async def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """See Source. Raises what Pool.admitted and Pool.lease raise, then an empty piece comes."""
        lease, told = None, worker_pb2.RunResponse()
        key = self._pool.affinity_key(request, self._session)
        left_s = time_left_s()
        try:
            with self._pool.admitted(
                ask_of(request), math.inf if left_s is None else left_s
            ) as stay:
                async with (
                    self._pool.lease(request.model, key=key, may_hedge=self._may_hedge) as lease,
                    contextlib.aclosing(lease.generate(request, time_left_s())) as responses,
                ):
                    yield NOTHING_YET
                    async for response in responses:
                        if not stay.has_begun:
                            self._pool.admission.begin(stay)
                        piece = _piece(lease, response)
                        if response.finish_reason and lease.has_others:
                            piece = _besides(piece, await lease.settle(request, response))
                        told = response
                        yield piece
        finally:  # its place is free by now
            if lease is not None and not told.finish_reason:
                await _to_its_end(self._tell_rest(lease, request, told))

    async def _tell_rest(
        self, lease: Lease, request: worker_pb2.RunRequest, told: worker_pb2.RunResponse
    ) -> None:
        spent = await lease.settle(request, told)
        if not spent:
            return
        rest = worker_pb2.RunResponse(weights_digest=told.weights_digest)
        own = next((one for one in spent if one.worker == lease.worker), None)
        if own is not None:
            rest.prompt_token_count, rest.output_token_count = (
                own.prompt_token_count,
                own.output_token_count,
            )
        self._settle(_besides(_piece(lease, rest), spent))


def _besides(piece: AnswerPiece, spent: Sequence[Spent]) -> AnswerPiece:
    """The piece, charged with more that its request used; tokens are the answer's own."""
    return replace(
        piece,
        cost_nano_usd=piece.cost_nano_usd
        + sum(time_cost_nano_usd(one.busy_s, one.price_nano_usd_per_hour) for one in spent),
        busy_s=piece.busy_s + sum(one.busy_s for one in spent),
    )


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it, also where the one who waits is cancelled meanwhile.

    A deadline ends the worker's call first, and our own while we ask what the request used.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _piece(lease: Lease, response: worker_pb2.RunResponse) -> AnswerPiece:
    busy_s = response.busy_s
    return AnswerPiece(  # by position, as each token has one
        response.text,
        response.prompt_token_count,
        response.output_token_count,
        time_cost_nano_usd(busy_s, lease.price_nano_usd_per_hour),
        response.finish_reason,
        busy_s,
        lease.worker,
        response.weights_digest,
        response.mean_logprob if response.HasField("mean_logprob") else None,
        response.queue_s if response.HasField("queue_s") else None,
    )
