"""Spans of a real fleet, as a collector gets them: OTLP over gRPC, from gateway and worker."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from deltafleet.v1 import inference_pb2
from gateway.caller import Call, Caller
from gateway.traced import in_request_span
from model_pool.errors import WorkerLost
from model_pool.tracing import Tracing, open_tracing, traceparent
from support.fleet import Fleet, first_text, refusal, running_fleet, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "marzipan"
Kind = trace_pb2.Span.SpanKind


def within(trace_id: str, flags: str = "01") -> tuple[tuple[str, str]]:
    """The metadata of a call that belongs to a trace."""
    return (("traceparent", f"00-{trace_id}-{PARENT}-{flags}"),)


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets."""

    spans: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    raw: list[bytes] = field(default_factory=list)

    async def Export(self, request: Any, context: Any) -> Any:
        self.raw.append(request.SerializeToString())
        for one in request.resource_spans:
            service = attributes_of(one.resource)["service.name"]
            for scope in one.scope_spans:
                for span in scope.spans:
                    self.spans.setdefault(span.trace_id.hex(), []).append((service, span))
        return trace_service_pb2.ExportTraceServiceResponse()

    async def trace(self, trace_id: str, count: int) -> dict[str, tuple[str, Any]]:
        """The spans of a trace, by service and name, once so many have come."""

        async def all_came() -> bool:
            return len(self.spans.get(trace_id, [])) >= count

        await until(all_came)
        return {f"{service} {span.name}": (service, span) for service, span in self.spans[trace_id]}


def attributes_of(one: Any) -> dict[str, object]:
    return {
        pair.key: getattr(pair.value, kind)
        if kind != "array_value"
        else [value.string_value for value in pair.value.array_value.values]
        for pair in one.attributes
        if (kind := pair.value.WhichOneof("value"))
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """A collector and its address."""
    server, kept = grpc.aio.server(), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield kept, f"http://127.0.0.1:{port}"
    await server.stop(0)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def traced_fleet(
    collector: tuple[Collector, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """The demo fleet, whose spans go to the collector."""
    home: Path = tmp_path_factory.mktemp("traced")
    async with running_fleet(home, tracing__endpoint=collector[1]) as fleet:
        yield fleet


async def test_one_request_is_one_trace_through_both_processes(
    traced_fleet: Fleet, collector: tuple[Collector, str]
) -> None:
    request = inference_pb2.GenerateRequest(prompt="What is 2 + 3?", max_output_token_count=9)
    answer = await traced_fleet.inference.Generate(request, metadata=within(TRACE))
    found = await collector[0].trace(TRACE, 8)
    model = answer.decision.model
    parents = {
        "deltafleet-gateway chat auto": PARENT,
        "deltafleet-gateway route": "deltafleet-gateway chat auto",
        f"deltafleet-gateway chat {model}": "deltafleet-gateway chat auto",
        f"deltafleet-worker chat {model}": f"deltafleet-gateway chat {model}",
    }
    phases = ("hold weights", "queue", "prefill", "decode")
    parents |= {f"deltafleet-worker {one}": f"deltafleet-worker chat {model}" for one in phases}
    assert set(found) == set(parents)
    for name, parent in parents.items():
        wanted = parent if parent == PARENT else found[parent][1].span_id.hex()
        assert found[name][1].parent_span_id.hex() == wanted, name

    root, asked = (
        found["deltafleet-gateway chat auto"][1],
        found[f"deltafleet-gateway chat {model}"][1],
    )
    assert (root.kind, asked.kind) == (Kind.SPAN_KIND_SERVER, Kind.SPAN_KIND_CLIENT)
    summary, told = answer.summary, attributes_of(root)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == "auto"
    assert told["gen_ai.response.model"] == model
    assert told["gen_ai.usage.input_tokens"] == summary.prompt_token_count
    assert told["gen_ai.usage.output_tokens"] == summary.output_token_count
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["deltafleet.cost_nano_usd"] == summary.cost_nano_usd
    assert told["deltafleet.request.id"] == summary.request_id
    assert told["deltafleet.route.reason"] == "classified"
    assert attributes_of(asked)["gen_ai.request.max_tokens"] == 9
    worker = found[f"deltafleet-worker chat {model}"][1]
    ends = [found[f"deltafleet-worker {one}"][1] for one in phases]
    for before, after in itertools.pairwise(ends):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert worker.start_time_unix_nano <= ends[1].end_time_unix_nano <= worker.end_time_unix_nano


async def test_a_trace_that_begins_here_is_the_ledgers_too(
    traced_fleet: Fleet, collector: tuple[Collector, str]
) -> None:
    answer = await traced_fleet.ask("What is 3 + 3?")

    def lines() -> list[dict[str, Any]]:
        told = map(json.loads, traced_fleet.lines)
        return [
            one
            for one in told
            if one["event"] == "request_finished"
            and one["request"]["request_id"] == answer.summary.request_id
        ]

    async def is_logged() -> bool:
        return bool(lines())

    await until(is_logged)
    trace_id = lines()[0]["request"]["trace_id"]
    assert len(trace_id) == 32
    assert "deltafleet-gateway chat auto" in await collector[0].trace(trace_id, 8)


async def test_a_refusal_is_an_error_with_its_reason_and_no_text(
    traced_fleet: Fleet, collector: tuple[Collector, str]
) -> None:
    trace = "2" * 32
    request = inference_pb2.GenerateRequest(prompt=f"{SECRET} " * 3000, model="sql")
    failure = await refusal(traced_fleet.inference.Generate(request, metadata=within(trace)))
    assert failure.reason == "ERROR_REASON_PROMPT_TOO_LONG"
    found = await collector[0].trace(trace, 3)
    for name in ("gateway", "worker"):
        span = found[f"deltafleet-{name} chat sql"][1]
        assert span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
        assert attributes_of(span)["error.type"] == "prompt_too_long"
    assert not any(SECRET.encode() in one for one in collector[0].raw)


async def test_a_caller_that_leaves_ends_the_spans(
    traced_fleet: Fleet,
    collector: tuple[Collector, str],
    long_request: inference_pb2.GenerateRequest,
) -> None:
    trace = "3" * 32
    call = traced_fleet.inference.StreamGenerate(long_request, metadata=within(trace))
    await first_text(call)
    call.cancel()
    found = await collector[0].trace(trace, 3)
    assert "deltafleet-worker chat base" in found


async def test_what_its_caller_does_not_sample_is_not_sent(
    traced_fleet: Fleet, collector: tuple[Collector, str]
) -> None:
    await traced_fleet.inference.Generate(
        inference_pb2.GenerateRequest(prompt="What is 4 + 3?"), metadata=within("1" * 32, "00")
    )
    after = await traced_fleet.inference.Generate(
        inference_pb2.GenerateRequest(prompt="What is 5 + 3?"),
        metadata=within("4" * 32),
    )
    assert after.summary.finish_reason
    await collector[0].trace("4" * 32, 8)
    assert "1" * 32 not in collector[0].spans


async def test_off_it_makes_nothing() -> None:
    async with open_tracing(None, "none") as tracing:
        with tracing.span("one") as span:
            assert not span.is_recording()
            assert traceparent() == ""


async def test_spans_of_generators_nest_whoever_closes_them(
    collector: tuple[Collector, str],
) -> None:
    """A generator may be closed by another task than the one that began it."""
    from model_pool.settings import TracingSettings

    async def events(tracing: Tracing) -> AsyncIterator[Any]:
        with tracing.span("inner"):
            yield inference_pb2.StreamGenerateResponse(text="a")
            raise WorkerLost("gone")

    call = Call("r", Caller(), traceparent=f"00-{'5' * 32}-{PARENT}-01")
    async with open_tracing(TracingSettings(endpoint=collector[1]), "test") as tracing:
        stream = in_request_span(tracing, call, "", events(tracing))
        await asyncio.create_task(anext(stream))
        with pytest.raises(WorkerLost):
            await asyncio.create_task(anext(stream))
    found = await collector[0].trace("5" * 32, 2)
    outer, inner = found["test chat auto"][1], found["test inner"][1]
    assert inner.parent_span_id == outer.span_id
    assert attributes_of(outer)["error.type"] == "worker_lost"
