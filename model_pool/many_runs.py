"""The worker's side of RunMany: the runs of one gateway, each in a task, over one stream."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial

from google.rpc import status_pb2

from deltafleet.v1 import worker_pb2
from model_pool.call import begin_call, current_trace, new_request_id, request_id, within
from model_pool.errors import FleetError, MalformedMessage
from model_pool.outbox import Outbox
from model_pool.receiving import Read, unknown_field
from model_pool.rpc import to_status, unexpected
from model_pool.traceparent import KEY, sampled_trace_id

# A run waits when so many of its events wait for the writer, so that a gateway which does not read
# is owed no more than that of each run that was let in, and
MOST_UNSENT_COUNT = 4
# so many ends of runs that were refused: then no orders are taken from it either.
MOST_ENDS_COUNT = 1024

OK = status_pb2.Status()
# Takes the request and the traceparent header of who asks.
Behaviour = Callable[[worker_pb2.RunRequest, str], AsyncGenerator[worker_pb2.RunResponse, None]]


class ManyRuns:
    """One stream. behaviour: runs one request. read: bytes → RunRequest, or what is wrong."""

    def __init__(self, behaviour: Behaviour, read: Read) -> None:
        self._behaviour = behaviour
        self._read = read
        self._outbox = Outbox[worker_pb2.RunEvent]()
        self._runs: dict[int, asyncio.Task[None]] = {}
        self._ends_count = 0  # that wait for the writer
        self._is_leaving = False

    async def serve(
        self, requests: AsyncIterator[worker_pb2.RunManyRequest]
    ) -> AsyncGenerator[worker_pb2.RunManyResponse, None]:
        """Events as they come: whoever writes them asks for the next when it has written."""
        receiving = asyncio.create_task(self._receive(requests), name="receive runs")
        try:
            while events := await self._outbox.take():
                self._ends_count = 0
                yield worker_pb2.RunManyResponse(events=events)
            if receiving.done():
                receiving.result()
        finally:
            tasks = (receiving, *self._runs.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def leave(self) -> None:
        """End when no run is left. What was not begun by then is not answered."""
        self._is_leaving = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._is_leaving and not self._runs:
            self._outbox.close()

    async def _receive(self, requests: AsyncIterator[worker_pb2.RunManyRequest]) -> None:
        try:
            async for request in requests:
                self._obey_all(request)
                while self._ends_count > MOST_ENDS_COUNT:
                    await self._outbox.until_taken()
        except BaseException:
            self._outbox.close()
            raise
        self.leave()

    def _obey_all(self, request: worker_pb2.RunManyRequest) -> None:
        fault = unknown_field(request)
        faults = [fault and unknown_field(order) for order in request.orders]
        if fault is not None and not any(faults):
            raise fault
        for order, its_fault in zip(request.orders, faults, strict=True):
            self._obey(order, its_fault)

    def _obey(self, order: worker_pb2.RunOrder, fault: FleetError | None) -> None:
        number = order.run_id
        if order.HasField("cancel"):
            if (run := self._runs.get(number)) is not None:
                run.cancel()
            return
        if number in self._runs:
            raise MalformedMessage(f"run {number} is under way")
        if self._is_leaving and not self._runs:
            return
        if fault is None and not order.HasField("start"):
            fault = MalformedMessage("the order does not say what to do")
        run = asyncio.create_task(self._run(number, order.start, fault))
        self._runs[number] = run
        run.add_done_callback(partial(self._forget, number))

    def _forget(self, number: int, run: asyncio.Task[None]) -> None:
        del self._runs[number]
        self._end_if_idle()

    async def _run(self, number: int, start: worker_pb2.StartRun, fault: FleetError | None) -> None:
        """What the door does for a call of Run."""
        begin_call(new_request_id())
        current_trace.set(sampled_trace_id(((KEY, start.traceparent),)))
        end = OK
        try:
            async with within(_limit_s(start)):
                await self._answer(number, start, fault)
        except FleetError as error:
            end = to_status(error)
        except Exception:
            end = to_status(unexpected(request_id.get()))
        self._ends_count += 1
        self._outbox.put(worker_pb2.RunEvent(run_id=number, end=end))

    async def _answer(
        self, number: int, start: worker_pb2.StartRun, fault: FleetError | None
    ) -> None:
        request = fault or self._read(start.request)
        if isinstance(request, FleetError):
            raise request
        assert isinstance(request, worker_pb2.RunRequest)
        outbox, take_count, unsent_count = self._outbox, -1, 0
        async with contextlib.aclosing(self._behaviour(request, start.traceparent)) as responses:
            async for response in responses:
                while outbox.take_count == take_count and unsent_count == MOST_UNSENT_COUNT:
                    await outbox.until_taken()
                if outbox.take_count != take_count:
                    take_count, unsent_count = outbox.take_count, 0
                unsent_count += 1
                outbox.put(worker_pb2.RunEvent(run_id=number, response=response))


def _limit_s(start: worker_pb2.StartRun) -> float | None:
    if not start.HasField("time_left_s"):
        return None
    if not math.isfinite(start.time_left_s):
        raise MalformedMessage("time_left_s is no number of seconds")
    return start.time_left_s
