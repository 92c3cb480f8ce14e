"""One request over gRPC, as an application sends it, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from examples.demo.tasks import TASKS
from loadtests.access import frame_of
from loadtests.record import Record
from loadtests.scenario import Traffic
from loadtests.schedule import Question

DETAILS_KEY = "grpc-status-details-bin"
PRIORITIES = {
    "interactive": inference_pb2.PRIORITY_INTERACTIVE,
    "standard": inference_pb2.PRIORITY_STANDARD,
    "batch": inference_pb2.PRIORITY_BATCH,
}
REASON_PREFIX = "ERROR_REASON_"


class Asker:
    """Sends one traffic's requests.

    now_s: since the phase began, the clock of every Record.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        traffic: Traffic,
        phase: int,
        now_s: Callable[[], float],
    ) -> None:
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)
        self._traffic = traffic
        self._metadata = frame_of(traffic.caller)
        self._phase = phase
        self._now_s = now_s

    async def ask(self, question: Question, at_s: float) -> Record:
        """Send it now and wait for its end. at_s: when it was to be sent. Never raises for it."""
        traffic = self._traffic
        record = Record(
            phase=self._phase,
            caller=traffic.caller,
            task=question.task,
            is_streamed=question.is_streamed,
            at_s=at_s,
            lag_s=self._now_s() - at_s,
            deadline_s=traffic.deadline_s,
        )
        text = ""
        try:
            text = await self._send(question, record)
        except grpc.aio.AioRpcError as error:
            record.reason = reason_of(error)
        record.total_s = self._now_s() - at_s
        if record.outside_s is not None:
            record.outside_s += record.total_s - record.lag_s
        if record.is_answered and not traffic.model:
            record.is_routed = record.model == question.task
            record.is_right = TASKS[question.task].is_right(question.problem, text)
        return record

    async def _send(self, question: Question, record: Record) -> str:
        request = inference_pb2.GenerateRequest(
            prompt=question.problem.prompt,
            model=self._traffic.model or "",
            max_output_token_count=self._traffic.max_output_token_count,
            temperature=self._traffic.temperature,
            seed=question.seed,
            priority=PRIORITIES[self._traffic.priority],
        )
        frame: dict[str, Any] = {
            "timeout": max(0.001, record.deadline_s - record.lag_s),
            "metadata": self._metadata,
        }
        if question.is_streamed:
            return await self._read(self._stub.StreamGenerate(request, **frame), record)
        response = await self._stub.Generate(request, **frame)
        record.model = response.decision.model
        _take_summary(response.summary, record)
        return response.text

    async def _read(
        self, events: AsyncIterable[inference_pb2.StreamGenerateResponse], record: Record
    ) -> str:
        texts = []
        last_s = first_s = 0.0
        async for event in events:
            if event.HasField("decision"):
                record.model = event.decision.model
            elif event.HasField("summary"):
                _take_summary(event.summary, record)
            else:
                last_s = self._now_s()
                first_s = first_s or last_s
                texts.append(event.text)
                if self._traffic.reading_pause_s:
                    await asyncio.sleep(self._traffic.reading_pause_s)
        if texts:
            record.first_token_s = first_s - record.at_s
        if len(texts) > 1 and record.output_token_count > 1:
            record.per_token_s = (last_s - first_s) / (record.output_token_count - 1)
        return "".join(texts)


def _take_summary(summary: inference_pb2.Summary, record: Record) -> None:
    record.prompt_token_count = summary.prompt_token_count
    record.output_token_count = summary.output_token_count
    record.cost_nano_usd = summary.cost_nano_usd
    record.outside_s = -summary.total_time.ToNanoseconds() / 1e9
    record.baselines = {one.baseline: one.cost_nano_usd for one in summary.baselines}


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The ErrorReason that came with a failure, else what gRPC calls it."""
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason).removeprefix(REASON_PREFIX)
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "DEADLINE_EXCEEDED"  # the caller's own clock was first
    return f"{code.name} without a reason"
