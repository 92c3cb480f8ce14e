"""The gateway's side of RunMany: all its runs on one worker over one stream (decision 0027)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from deltafleet.v1 import worker_pb2
from model_pool.errors import DeadlineExceeded, Draining, FleetError
from model_pool.outbox import Outbox
from model_pool.rpc import from_status

# Larger ones go by a call of their own, so that nobody waits until they are across.
LARGEST_REQUEST_BYTES = 64 * 1024
MOST_ORDERS_COUNT = 256  # in one message
# Of an answer's pieces that nobody has asked for yet; more are joined, so that one whose caller
# reads slowly does not hold all the messages that its pieces came in.
MOST_PIECES_COUNT = 16

# Takes what the worker named, None where it went away without a word; returns what its caller is
# told.
Blame = Callable[[FleetError | None], FleetError]


class NotOffered(Exception):
    """The worker has no RunMany, and did nothing."""


class StreamedRun:
    """One run, for the one who asked for it.

    is_over: nothing more is heard of it. is_sent: the worker was told to start it.
    """

    __slots__ = (
        *("_expires_at", "_failure", "_loop", "_pieces", "_timer", "_waiter"),
        *("header", "is_over", "is_sent", "number", "request", "was_heard"),
    )

    def __init__(
        self, number: int, request: worker_pb2.RunRequest, timeout_s: float | None, header: str
    ) -> None:
        self.number = number
        self.request = request
        self.header = header
        self.is_sent = False
        self.was_heard = False
        self.is_over = False
        self._failure: Exception | None = None
        self._pieces: deque[worker_pb2.RunResponse] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._expires_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            self._expires_at = self._loop.time() + timeout_s
            self._timer = self._loop.call_at(self._expires_at, self._expire)

    @property
    def left_s(self) -> float | None:
        """Seconds until its deadline, None where it has none."""
        return None if self._expires_at is None else self._expires_at - self._loop.time()

    async def next(self) -> worker_pb2.RunResponse | None:
        """The next piece of the answer, None at its end. Raises what it failed of."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self.is_over:
                return None
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._pieces.popleft()

    def hear(self, piece: worker_pb2.RunResponse) -> None:
        """One more."""
        if self.is_over:
            return
        self.was_heard = True
        if len(self._pieces) < MOST_PIECES_COUNT:
            self._pieces.append(piece)
        else:
            self._pieces[-1] = _joined(self._pieces[-1], piece)
        self._wake()

    def end(self, failure: Exception | None = None) -> None:
        """It has ended; what comes later does not count."""
        if self.is_over:
            return
        self.is_over = True
        self._failure = failure
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    def _expire(self) -> None:
        self.end(DeadlineExceeded("the deadline has passed"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class RunStream:
    """One stream, from its first run until it is lost or closed. is_over: it takes no runs."""

    def __init__(self, call: Any, blame: Blame) -> None:
        self.is_over = False
        self._call = call
        self._blame = blame
        self._outbox = Outbox[StreamedRun]()
        self._runs: dict[int, StreamedRun] = {}
        self._last_number = 0
        self._tasks = [
            asyncio.create_task(self._read(), name="read runs"),
            asyncio.create_task(self._write(), name="write runs"),
        ]

    async def close(self) -> None:
        """End it, and every run."""
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def run(
        self, request: worker_pb2.RunRequest, timeout_s: float | None, header: str
    ) -> Iterator[StreamedRun]:
        """Begin it; where it has not ended in the end, it is cancelled. header: traceparent."""
        self._last_number += 1
        run = StreamedRun(self._last_number, request, timeout_s, header)
        self._runs[run.number] = run
        self._outbox.put(run)
        try:
            yield run
        finally:
            run.end()
            if self._runs.pop(run.number, None) is not None and run.is_sent:
                self._outbox.put(run)

    async def _write(self) -> None:
        """Until the stream ends: then `_read` knows why."""
        with contextlib.suppress(grpc.RpcError, grpc.aio.BaseError):
            await self._call.wait_for_connection()
            while runs := await self._outbox.take():
                orders = [order for run in runs if (order := _order(run)) is not None]
                for start in range(0, len(orders), MOST_ORDERS_COUNT):
                    await self._send(orders[start : start + MOST_ORDERS_COUNT])

    async def _send(self, orders: list[worker_pb2.RunOrder]) -> None:
        """Past grpc.aio's own `write` (1.85): where the stream has just ended, that one puts an
        error of its own in the place of the status which tells why.
        """
        message = worker_pb2.RunManyRequest(orders=orders)
        await self._call._cython_call.send_serialized_message(message.SerializeToString())

    async def _read(self) -> None:
        make_failure: Callable[[StreamedRun], Exception] = self._lost
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                for event in message.events:
                    self._hear(event)
            make_failure = self._left
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                make_failure = self._not_offered
        finally:
            self.is_over = True
            self._call.cancel()
            self._outbox.close()
            runs, self._runs = self._runs, {}
            for run in runs.values():
                run.end(make_failure(run))

    def _hear(self, event: worker_pb2.RunEvent) -> None:
        run = self._runs.get(event.run_id)
        if run is None:  # it was cancelled
            return
        if event.HasField("response"):
            run.hear(event.response)
            return
        del self._runs[event.run_id]
        end = event.end
        run.end(self._blame(from_status(end)) if end.code else None)

    def _lost(self, run: StreamedRun) -> Exception:
        return self._blame(None)

    def _left(self, run: StreamedRun) -> Exception:
        """A worker that shuts down ends its streams in order, when nothing runs that it took."""
        return self._lost(run) if run.was_heard else Draining("the worker is shutting down")

    def _not_offered(self, run: StreamedRun) -> Exception:
        return NotOffered()


def _order(run: StreamedRun) -> worker_pb2.RunOrder | None:
    """What the worker is to be told of it now."""
    if run.is_over:
        cancel = worker_pb2.CancelRun()
        return worker_pb2.RunOrder(run_id=run.number, cancel=cancel) if run.is_sent else None
    run.is_sent = True
    start = worker_pb2.StartRun(
        request=run.request.SerializeToString(), time_left_s=run.left_s, traceparent=run.header
    )
    return worker_pb2.RunOrder(run_id=run.number, start=start)


def _joined(
    earlier: worker_pb2.RunResponse, later: worker_pb2.RunResponse
) -> worker_pb2.RunResponse:
    """Both as one: everything but text is cumulative."""
    both = worker_pb2.RunResponse()
    both.CopyFrom(later)
    both.text = earlier.text + later.text
    return both
