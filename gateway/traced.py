"""Spans of a request's steps at the gateway, in the terms of generative AI's conventions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping

from opentelemetry.trace import Span, SpanKind

from deltafleet.v1 import inference_pb2, worker_pb2
from gateway.answer import AnswerPiece, Source
from gateway.caller import Call
from gateway.entry import Entry
from gateway.router import Route
from model_pool.call import current_trace
from model_pool.tracing import Attributes, Tracing, sampled_id

Event = inference_pb2.StreamGenerateResponse
PROVIDER = "deltafleet"
FINISH_REASONS: Mapping[int, str] = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}


class TracedSource:
    """A source whose answers are spans; what it asks over the network continues them."""

    def __init__(self, source: Source, tracing: Tracing) -> None:
        self._source = source
        self._tracing = tracing

    async def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """See Source."""
        attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": request.model,
            "gen_ai.request.max_tokens": request.max_output_token_count,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p,
        }
        with self._tracing.span(f"chat {request.model}", attributes, kind=SpanKind.CLIENT) as span:
            last, has_begun = None, False
            async with contextlib.aclosing(self._source.generate(request)) as pieces:
                async for piece in pieces:
                    if not has_begun and piece.output_token_count:
                        has_begun = True
                        span.add_event("first piece")
                    last = piece
                    yield piece
            if last is not None:
                _tell_answer(span, last)


def traced(source: Source, tracing: Tracing) -> Source:
    """The source itself where nothing is traced."""
    return TracedSource(source, tracing) if tracing.is_on else source


async def in_request_span(
    tracing: Tracing, call: Call, model: str, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[Event, None]:
    """The same events, in the span of one request, a child of its caller's.

    model: that the request names; "" for none.
    """
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model or "auto",
        "gen_ai.request.stream": not call.is_unary,
        "deltafleet.request.id": call.request_id,
    }
    name = f"chat {model or 'auto'}"
    with tracing.span(name, attributes, kind=SpanKind.SERVER, parent=call.traceparent) as span:
        if sampled := sampled_id(span):
            current_trace.set(sampled)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event


def tell_route(span: Span, route: Route) -> None:
    """What was decided."""
    if span.is_recording():
        span.set_attributes(
            {
                "deltafleet.route.model": route.target.name,
                "deltafleet.route.task": route.task,
                "deltafleet.route.reason": route.reason.value,
                "deltafleet.route.decided_by": route.decided_by,
            }
        )


def tell_entry(tracing: Tracing, entry: Entry) -> None:
    """How the whole request ended, for its span, which is the current one."""
    span = tracing.current
    if span.is_recording() and entry.last is not None:
        _tell_answer(span, entry.last)
        span.set_attribute("gen_ai.response.model", entry.route.target.name)
        tell_route(span, entry.route)


def _tell_answer(span: Span, last: AnswerPiece) -> None:
    if not span.is_recording():
        return
    span.set_attributes(
        {
            "gen_ai.usage.input_tokens": last.prompt_token_count,
            "gen_ai.usage.output_tokens": last.output_token_count,
            "deltafleet.cost_nano_usd": last.cost_nano_usd,
        }
    )
    if last.worker:
        span.set_attribute("deltafleet.worker", last.worker)
    if last.finish_reason:
        reason = FINISH_REASONS.get(last.finish_reason, "unknown")
        span.set_attribute("gen_ai.response.finish_reasons", [reason])
