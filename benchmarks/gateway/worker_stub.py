"""A worker that computes nothing: WorkerService behind two servers, in a process of its own.

    python -m benchmarks.gateway.worker_stub MODEL...

Writes two addresses as its first line: of a server in Rust, which has Run alone, for those who ask
it directly or through a bare proxy; and of one that has RunMany, for gateways. What a request asks:
`max_output_token_count` tokens, and in `seed`, which gateways pass on, how they come (`pacing`). A
line on standard input is answered with one JSON object: when requests were cancelled (seconds of
CLOCK_MONOTONIC, by request id), and how many ran.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import sys
import threading
import time
from typing import Any

from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from benchmarks.gateway import grpc_serving
from benchmarks.gateway.loops import run
from benchmarks.gateway.stub_answers import SERVICE, StubAnswers, StubRun
from benchmarks.gateway.stub_streams import StubStreams


class RunFront:
    """Answers what the Rust front hands over, on one thread."""

    def __init__(self, answers: StubAnswers) -> None:
        self._answers = answers
        self._front = NativeGrpcFront(
            "127.0.0.1:0",
            [(SERVICE + "Run", True)],
            io_threads=1,
            max_concurrent_streams=100_000,
        )
        self._front.start()
        self.address = f"127.0.0.1:{self._front.bound_port}"
        self._due: list[tuple[float, int]] = []
        self._runs: dict[int, StubRun] = {}

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
        kind, call, _, payload, _ = event
        if kind != EVENT_CANCEL:
            self._run(call, payload)
        elif (run := self._runs.pop(call, None)) is not None:
            self._answers.cancel(run)

    def _run(self, call: int, payload: bytes) -> None:
        run = self._answers.begin(payload)
        if run.pacing.gap_s:
            self._runs[call] = run
            heapq.heappush(self._due, (time.monotonic() + run.pacing.gap_s, call))
            return
        while not run.is_over:
            self._front.stream_send(call, self._answers.next(run))
        self._front.stream_end(call)

    def _send_due(self) -> None:
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            due_s, call = heapq.heappop(self._due)
            if (run := self._runs.get(call)) is None:
                continue
            self._front.stream_send(call, self._answers.next(run))
            if not run.is_over:
                heapq.heappush(self._due, (due_s + run.pacing.gap_s, call))
            else:
                del self._runs[call]
                self._front.stream_end(call)


async def serve(models: list[str]) -> None:
    """Until standard input ends."""
    answers = StubAnswers(models)
    front = RunFront(answers)
    threading.Thread(target=front.serve, daemon=True).start()
    async with grpc_serving.serving(StubStreams(answers)) as address:
        _say(f"{front.address} {address}")
        while await asyncio.to_thread(sys.stdin.readline):
            told = {"cancelled_s": dict(answers.cancelled_s), "run_count": answers.run_count}
            _say(json.dumps(told))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run(serve(sys.argv[1:]), "uvloop")
