"""Answers from a worker of the pool."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from deltafleet.v1 import inference_pb2, worker_pb2
from gateway.answer import AnswerPiece
from gateway.pricing import time_cost_nano_usd
from model_pool.admission import ask_of
from model_pool.call import time_left_s
from model_pool.errors import CallerSaturated, PoolSaturated
from model_pool.pool import Lease, Pool

NOTHING_YET = AnswerPiece("", 0, 0, 0, inference_pb2.FINISH_REASON_UNSPECIFIED)


class PooledSource:
    """A worker, leased for the answer; its busy seconds are priced at the worker's price."""

    def __init__(self, pool: Pool, settle: Callable[[AnswerPiece], None]) -> None:
        """settle: told what an answer that was broken off used beyond what its pieces told."""
        self._pool = pool
        self._settle = settle

    async def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """See Source. Raises what Pool.admitted and Pool.lease raise, then an empty piece comes."""
        lease, last = None, worker_pb2.RunResponse()
        left_s = time_left_s()
        try:
            with self._pool.admitted(
                ask_of(request), math.inf if left_s is None else left_s
            ) as stay:
                async with (
                    self._pool.lease(request.model) as lease,
                    contextlib.aclosing(lease.generate(request, time_left_s())) as responses,
                ):
                    yield NOTHING_YET
                    async for last in responses:
                        self._pool.admission.begin(stay)
                        yield _piece(lease, last)
        except (PoolSaturated, CallerSaturated):
            lease = None  # nothing of it ran, so that there is no rest
            raise
        finally:  # its place is free by now
            if lease is not None and not last.finish_reason:
                await _to_its_end(self._tell_rest(lease, request, last))

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
