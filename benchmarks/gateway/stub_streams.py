"""The stub worker's other server, for gateways: it has RunMany, which the Rust front cannot have.

Events are put together by hand: to build them as messages would cost more than all the rest.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time

from benchmarks.gateway.grpc_serving import ServedCall
from benchmarks.gateway.stub_answers import SERVICE, STATUS_INTERVAL_S, StubAnswers, StubRun
from deltafleet.v1 import worker_pb2

RUN_MANY, WATCH, DESCRIBE = (
    SERVICE + name for name in ("RunMany", "WatchStatus", "DescribeModels")
)
SHORTEST_WAIT_S = 0.001  # as uvloop counts
# Tags of fields that are messages, or numbers: RunManyResponse.events; RunEvent's three.
_EVENTS, _RUN_ID, _RESPONSE = b"\x0a", b"\x08", b"\x12"
_END = b"\x1a\x00"  # a status without a code: OK


class StubStreams:
    """See Service."""

    def __init__(self, answers: StubAnswers) -> None:
        self._answers = answers
        self._runs: dict[ServedCall, dict[int, StubRun]] = {}
        self._watches: dict[ServedCall, asyncio.TimerHandle] = {}
        self._due: list[tuple[float, int, ServedCall, int]] = []
        self._order = itertools.count()
        self._looks_at_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def hear(self, call: ServedCall, message: bytes) -> None:
        """See Service."""
        if call.path == RUN_MANY:
            self._obey(call, worker_pb2.RunManyRequest.FromString(message))
        elif call.path == WATCH:
            self._tell_status(call)
        else:
            call.send(self._answers.models() if call.path == DESCRIBE else b"")
            call.end()

    def lose(self, call: ServedCall) -> None:
        """See Service."""
        if (watch := self._watches.pop(call, None)) is not None:
            watch.cancel()
        for run in self._runs.pop(call, {}).values():
            self._answers.cancel(run)

    def _tell_status(self, call: ServedCall) -> None:
        call.send(self._answers.status())
        loop = asyncio.get_running_loop()
        self._watches[call] = loop.call_later(STATUS_INTERVAL_S, self._tell_status, call)

    def _obey(self, call: ServedCall, request: worker_pb2.RunManyRequest) -> None:
        runs = self._runs.setdefault(call, {})
        events: list[bytes] = []
        now_s = time.monotonic()
        for order in request.orders:
            number = order.run_id
            if order.HasField("cancel"):
                if (gone := runs.pop(number, None)) is not None:
                    self._answers.cancel(gone)
                continue
            run = self._answers.begin(order.start.request)
            if run.pacing.gap_s:
                runs[number] = run
                due_s = now_s + run.pacing.gap_s
                heapq.heappush(self._due, (due_s, next(self._order), call, number))
                continue
            while not run.is_over:
                events.append(_event(number, self._answers.next(run), run.is_over))
        if events:
            call.send(b"".join(events))
        self._wait()

    def _send_due(self) -> None:
        self._looks_at_s = math.inf
        now_s = time.monotonic()
        ready: dict[ServedCall, list[bytes]] = {}
        while self._due and self._due[0][0] <= now_s:
            due_s, _, call, number = heapq.heappop(self._due)
            runs = self._runs.get(call, {})
            if (run := runs.get(number)) is None:
                continue
            response = self._answers.next(run)
            ready.setdefault(call, []).append(_event(number, response, run.is_over))
            if run.is_over:
                del runs[number]
            else:
                due_s += run.pacing.gap_s
                heapq.heappush(self._due, (due_s, next(self._order), call, number))
        for call, events in ready.items():
            call.send(b"".join(events))
        self._wait()

    def _wait(self) -> None:
        """Look again when the next is due, which may be sooner than was known."""
        due_s = self._due[0][0] if self._due else math.inf
        if due_s >= self._looks_at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at_s = due_s
        wait_s = max(SHORTEST_WAIT_S, due_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._send_due)


def _event(number: int, response: bytes, is_last: bool) -> bytes:
    """As a field of RunManyResponse: of the response, then, where it is the last, of the end."""
    name = _RUN_ID + _varint(number)
    event = name + _RESPONSE + _varint(len(response)) + response
    told = _EVENTS + _varint(len(event)) + event
    return told + _EVENTS + _varint(len(name) + len(_END)) + name + _END if is_last else told


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*data, number))
