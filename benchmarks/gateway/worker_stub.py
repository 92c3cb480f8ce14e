"""A worker that computes nothing: WorkerService behind a Rust server, in a process of its own.

    python -m benchmarks.gateway.worker_stub MODEL...

Writes its address as its first line. What a request asks: `max_output_token_count` tokens, and in
`seed`, which gateways pass on, how they come (`pacing`). A line on standard input is answered with
one JSON object: when requests were cancelled (seconds of CLOCK_MONOTONIC, by request id), and how
many ran.
"""

from __future__ import annotations

import heapq
import json
import sys
import threading
import time
from typing import Any

from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from benchmarks.gateway.pacing import Pacing, token_text, unpacked
from deltafleet.v1 import inference_pb2, worker_pb2

SERVICE = "/deltafleet.v1.WorkerService/"
RUN, WATCH, DESCRIBE, SETTLE = range(4)
METHODS = [("Run", True), ("WatchStatus", True), ("DescribeModels", False), ("SettleRun", False)]
STATUS_INTERVAL_S = 0.5
PROMPT_TOKEN_COUNT = 50
DIGEST = "0" * 64


class WorkerStub:
    """Answers what the front hands over, on one thread."""

    def __init__(self, models: list[str]) -> None:
        self._models = models
        self._front = NativeGrpcFront(
            "127.0.0.1:0",
            [(SERVICE + name, streams) for name, streams in METHODS],
            io_threads=1,
            max_concurrent_streams=100_000,
        )
        self._front.start()
        self.address = f"127.0.0.1:{self._front.bound_port}"
        self._began_s = time.monotonic()
        self._due: list[tuple[float, int]] = []
        self._runs: dict[int, _Run] = {}
        self._watchers: set[int] = set()
        self._responses: dict[tuple[int, int, int], bytes] = {}
        self.cancelled_s: dict[str, float] = {}
        self.run_count = 0

    def serve(self) -> None:
        """Until the process ends."""
        while True:
            wait_ms = None
            if self._due:
                wait_ms = max(0, int((self._due[0][0] - time.monotonic()) * 1000))
            for event in self._front.recv_batch(256, wait_ms) or ():
                self._take(event)
            self._send_due()

    def _take(self, event: Any) -> None:
        kind, call, method, payload, _ = event
        if kind == EVENT_CANCEL:
            self._watchers.discard(call)
            run = self._runs.pop(call, None)
            if run is not None:
                self.cancelled_s[run.request_id] = time.monotonic()
        elif method == RUN:
            self._run(call, payload)
        elif method == WATCH:
            self._watchers.add(call)
            heapq.heappush(self._due, (0.0, call))
        elif method == DESCRIBE:
            listed = [
                worker_pb2.ModelDescription(model=name, weights_digest=DIGEST)
                for name in self._models
            ]
            answer = worker_pb2.DescribeModelsResponse(models=listed)
            self._front.respond(call, answer.SerializeToString())
        else:
            self._front.respond(call, b"")

    def _run(self, call: int, payload: bytes) -> None:
        request = worker_pb2.RunRequest.FromString(payload)
        self.run_count += 1
        run = _Run(request.request_id, request.max_output_token_count, unpacked(request.seed))
        if run.pacing.gap_s:
            self._runs[call] = run
            heapq.heappush(self._due, (time.monotonic() + run.pacing.gap_s, call))
            return
        while run.sent_count < run.token_count:
            self._front.stream_send(call, self._next(run))
        self._front.stream_end(call)

    def _send_due(self) -> None:
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            due_s, call = heapq.heappop(self._due)
            if call in self._watchers:
                self._front.stream_send(call, self._status())
                heapq.heappush(self._due, (now_s + STATUS_INTERVAL_S, call))
            elif (run := self._runs.get(call)) is not None:
                self._front.stream_send(call, self._next(run))
                if run.sent_count < run.token_count:
                    heapq.heappush(self._due, (due_s + run.pacing.gap_s, call))
                else:
                    del self._runs[call]
                    self._front.stream_end(call)

    def _next(self, run: _Run) -> bytes:
        count = min(run.pacing.tokens_per_event, run.token_count - run.sent_count)
        key = (run.sent_count, count, run.token_count)
        run.sent_count += count
        found = self._responses.get(key)
        if found is None:
            found = self._responses[key] = _response(*key)
        return found

    def _status(self) -> bytes:
        status = worker_pb2.WatchStatusResponse(
            worker="stub",
            incarnation="stub-1",
            state=worker_pb2.WORKER_STATE_READY,
            loaded=[worker_pb2.LoadedModel(model=name) for name in self._models],
            uptime_s=time.monotonic() - self._began_s,
            price_nano_usd_per_hour=10**9,
        )
        return status.SerializeToString()


class _Run:
    __slots__ = ("pacing", "request_id", "sent_count", "token_count")

    def __init__(self, request_id: str, token_count: int, pacing: Pacing) -> None:
        self.request_id = request_id
        self.token_count = token_count
        self.pacing = pacing
        self.sent_count = 0


def _response(sent_count: int, count: int, token_count: int) -> bytes:
    done_count = sent_count + count
    is_last = done_count == token_count
    response = worker_pb2.RunResponse(
        text=token_text(count),
        prompt_token_count=PROMPT_TOKEN_COUNT,
        output_token_count=done_count,
        busy_s=done_count * 1e-4,
        weights_digest=DIGEST,
        finish_reason=inference_pb2.FINISH_REASON_LENGTH
        if is_last
        else inference_pb2.FINISH_REASON_UNSPECIFIED,
        queue_s=0.0,
    )
    return response.SerializeToString()


def main() -> None:
    """See the module."""
    stub = WorkerStub(sys.argv[1:])
    threading.Thread(target=stub.serve, daemon=True).start()
    sys.stdout.write(f"{stub.address}\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        told = {"cancelled_s": dict(stub.cancelled_s), "run_count": stub.run_count}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
