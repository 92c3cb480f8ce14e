"""What the stub worker answers, on whichever server."""

from __future__ import annotations

import time

from benchmarks.gateway.pacing import Pacing, token_text, unpacked
from deltafleet.v1 import inference_pb2, worker_pb2

SERVICE = "/deltafleet.v1.WorkerService/"
STATUS_INTERVAL_S = 0.5
PROMPT_TOKEN_COUNT = 50
DIGEST = "0" * 64


class StubRun:
    """One request."""

    __slots__ = ("pacing", "request_id", "sent_count", "token_count")

    def __init__(self, request_id: str, token_count: int, pacing: Pacing) -> None:
        self.request_id = request_id
        self.token_count = token_count
        self.pacing = pacing
        self.sent_count = 0

    @property
    def is_over(self) -> bool:
        """Whether all of it was sent."""
        return self.sent_count >= self.token_count


class StubAnswers:
    """cancelled_s: when requests were cancelled, by their id. run_count: how many ran."""

    def __init__(self, models: list[str]) -> None:
        self.cancelled_s: dict[str, float] = {}
        self.run_count = 0
        self._models = models
        self._began_s = time.monotonic()
        self._responses: dict[tuple[int, int, int], bytes] = {}

    def begin(self, payload: bytes) -> StubRun:
        """payload: a RunRequest."""
        request = worker_pb2.RunRequest.FromString(payload)
        self.run_count += 1
        return StubRun(request.request_id, request.max_output_token_count, unpacked(request.seed))

    def cancel(self, run: StubRun) -> None:
        """Somebody left."""
        self.cancelled_s[run.request_id] = time.monotonic()

    def next(self, run: StubRun) -> bytes:
        """Its next RunResponse."""
        count = min(run.pacing.tokens_per_event, run.token_count - run.sent_count)
        key = (run.sent_count, count, run.token_count)
        run.sent_count += count
        found = self._responses.get(key)
        if found is None:
            found = self._responses[key] = _response(*key)
        return found

    def status(self) -> bytes:
        """A WatchStatusResponse."""
        status = worker_pb2.WatchStatusResponse(
            worker="stub",
            incarnation="stub-1",
            state=worker_pb2.WORKER_STATE_READY,
            loaded=[worker_pb2.LoadedModel(model=name) for name in self._models],
            uptime_s=time.monotonic() - self._began_s,
            price_nano_usd_per_hour=10**9,
        )
        return status.SerializeToString()

    def models(self) -> bytes:
        """A DescribeModelsResponse."""
        listed = [
            worker_pb2.ModelDescription(model=name, weights_digest=DIGEST) for name in self._models
        ]
        return worker_pb2.DescribeModelsResponse(models=listed).SerializeToString()


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
