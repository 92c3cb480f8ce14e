"""Traces (OpenTelemetry): spans of one process, and the header that ties them to other processes'.

Names follow OpenTelemetry's semantic conventions for generative AI; what they have no name for is
`deltafleet.*`. No span has any text of prompts or answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool.errors import FleetError
from model_pool.settings import TracingSettings
from model_pool.settings_file import tracing_headers
from model_pool.traceparent import KEY, parts_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]

# Not the SDK's own: a generator may be closed in another context than it was begun in.
_current: contextvars.ContextVar[Span] = contextvars.ContextVar("span", default=INVALID_SPAN)


class Tracing:
    """Makes spans. Without a tracer it makes none, and costs next to nothing."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @property
    def is_on(self) -> bool:
        """Whether there are spans at all."""
        return self._tracer is not None

    @property
    def current(self) -> Span:
        """The span that the caller is inside of; one that records nothing, where there is none."""
        return _current.get()

    @contextlib.contextmanager
    def span(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: str | None = None,
    ) -> Iterator[Span]:
        """A span of what happens inside; what it raises is its error, by its reason.

        parent: the traceparent header of the process that asked, "" where it sent none; None: the
        span that this one is inside of.
        """
        if self._tracer is None:
            yield INVALID_SPAN
            return
        outer = _current.get()
        context = set_span_in_context(outer if parent is None else _remote(parent))
        span = self._tracer.start_span(name, context, kind, attributes)
        _current.set(span)
        try:
            yield span
        except BaseException as error:
            reason = reason_of(error)
            span.set_attribute("error.type", reason)
            span.set_status(Status(StatusCode.ERROR, reason))
            raise
        finally:
            _current.set(outer)
            span.end()

    def phases(self, *phases: tuple[str, float]) -> None:
        """Spans inside the current one for what has just been, one after the other up to now.

        phases: name and seconds.
        """
        if self._tracer is None:
            return
        context = set_span_in_context(_current.get())
        at_ns = time.time_ns() - sum(round(seconds * 1e9) for _, seconds in phases)
        for name, seconds in phases:
            span = self._tracer.start_span(name, context, start_time=at_ns)
            at_ns += round(seconds * 1e9)
            span.end(at_ns)


@contextlib.asynccontextmanager
async def open_tracing(settings: TracingSettings | None, service: str) -> AsyncIterator[Tracing]:
    """Tracing as fleet.yaml has it; None: off. What was made is sent before it closes.

    service: service.name, as the convention calls it.
    """
    if settings is None:
        yield Tracing()
        return
    provider = _provider(settings, service)
    try:
        yield Tracing(provider.get_tracer("deltafleet", version("deltafleet")))
    finally:
        await asyncio.to_thread(provider.shutdown)


def _provider(settings: TracingSettings, service: str) -> TracerProvider:
    # Imported here: without tracing a process is smaller, and starts sooner.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    facts = {"service.name": service, "service.version": version("deltafleet")}
    provider = TracerProvider(
        resource=Resource.create(facts),
        sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(
        endpoint=settings.endpoint,
        insecure=settings.endpoint.startswith("http://"),
        headers=tracing_headers(),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def reason_of(error: BaseException) -> str:
    """What an error is called in a span: its reason on the wire, or its class; never its text."""
    if isinstance(error, FleetError):
        return ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_").lower()
    return type(error).__name__


def traceparent() -> str:
    """The header that makes another process's span a child of the current one; "" without one."""
    context = _current.get().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """The same as gRPC metadata."""
    header = traceparent()
    return ((KEY, header),) if header else ()


def sampled_id(span: Span) -> str:
    """The trace of a span that is kept, 32 hex digits; else ""."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid and context.trace_flags.sampled else ""


def _remote(parent: str) -> Span:
    parts = parts_of(parent)
    if parts is None:
        return INVALID_SPAN
    trace_id, span_id, flags = parts
    return NonRecordingSpan(
        SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    )
