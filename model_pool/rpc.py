"""The frame of every gRPC door: request id, size, shape, deadline, and errors as statuses.

`Door` is a server interceptor for the services of deltafleet.v1; others (health, reflection) pass
it untouched. `to_failure` reads on the client's side what `Door` wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool.call import (
    REQUEST_ID_KEY,
    begin_call,
    current_trace,
    new_request_id,
    own_request_id,
    time_left_s,
    told,
    within,
)
from model_pool.errors import FleetError
from model_pool.letting_go import forget, released
from model_pool.receiving import Receiver
from model_pool.traceparent import sampled_trace_id

DOMAIN = "deltafleet.v1"
DETAILS_KEY = "grpc-status-details-bin"
# gRPC itself refuses larger messages before our code sees them, without a reason of ours.
HARD_LIMIT_BYTES = 64 * 1024 * 1024
LONGEST_TEXT_BYTES = 1024  # of a failure
LONGEST_VALUE_BYTES = 256  # of each thing that it names in its metadata

log = logging.getLogger(__name__)

Code = grpc.StatusCode
STATUS_OF: dict[ErrorReason.ValueType, grpc.StatusCode] = {
    ErrorReason.ERROR_REASON_EMPTY_PROMPT: Code.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_PROMPT_TOO_LONG: Code.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_INVALID_PARAMETER: Code.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_MALFORMED_MESSAGE: Code.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_UNKNOWN_FIELD: Code.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_UNKNOWN_MODEL: Code.NOT_FOUND,
    ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_POOL_SATURATED: Code.UNAVAILABLE,
    ErrorReason.ERROR_REASON_NO_WORKER_READY: Code.UNAVAILABLE,
    ErrorReason.ERROR_REASON_WORKER_LOST: Code.UNAVAILABLE,
    ErrorReason.ERROR_REASON_DRAINING: Code.UNAVAILABLE,
    ErrorReason.ERROR_REASON_SPECIALIST_UNLOADABLE: Code.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_NO_MODEL_QUALIFIES: Code.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED: Code.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_CLOSED_API_FAILED: Code.UNAVAILABLE,
    ErrorReason.ERROR_REASON_INTERNAL: Code.INTERNAL,
    ErrorReason.ERROR_REASON_UNKNOWN_REQUEST: Code.NOT_FOUND,
    ErrorReason.ERROR_REASON_FEEDBACK_OFF: Code.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_LEDGER_UNAVAILABLE: Code.UNAVAILABLE,
    ErrorReason.ERROR_REASON_CONFIG_REFUSED: Code.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_BUDGET_SPENT: Code.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_UNAUTHENTICATED: Code.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_PERMISSION_DENIED: Code.PERMISSION_DENIED,
    ErrorReason.ERROR_REASON_REQUEST_ID_REUSED: Code.ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_ANSWER_NOT_KEPT: Code.ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_CALLER_SATURATED: Code.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_RATE_LIMITED: Code.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_CALLER_BUDGET_SPENT: Code.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_LIMITS_UNAVAILABLE: Code.UNAVAILABLE,
}

REASON_NAMES = {ErrorReason.Name(reason) for reason in STATUS_OF}
Handler = Callable[..., Any]
# Full method name, status, and the ErrorReason in lower case without its prefix; "" for none.
OnEnd = Callable[[str, grpc.StatusCode, str], None]
OnBegin = Callable[[str, Any], Awaitable[None]]


async def _nothing(method: str, context: Any) -> None:
    """Every call may begin."""


class Door(grpc.aio.ServerInterceptor):
    """Frames every call of deltafleet.v1.

    max_message_bytes: larger requests are refused. default_deadline_s: for calls that bring no
    deadline, and the longest that any may bring; None: as the caller says. receive_limit_s: until a
    request is whole. on_begin: takes the full method name and the context before the request is
    read; what it raises refuses the call. on_end: told how each call ended.

    A stream of requests is one call, which may last as long as its caller likes. Its messages are
    bounded and parse; what else may be wrong with them, its servicer finds.
    """

    def __init__(
        self,
        *,
        max_message_bytes: int,
        default_deadline_s: float | None,
        receive_limit_s: float | None = None,
        on_begin: OnBegin = _nothing,
        on_end: OnEnd = lambda method, code, reason: None,
    ) -> None:
        self._receiver = Receiver(max_message_bytes=max_message_bytes, limit_s=receive_limit_s)
        self._default_deadline_s = default_deadline_s
        self._on_begin = on_begin
        self._on_end = on_end
        self._framed: dict[str, Any] = {}  # by method, of which there are as many as servicers have

    def limit(self, max_message_bytes: int, default_deadline_s: float | None) -> None:
        """Other limits for the calls that begin from now on."""
        self._receiver.max_message_bytes = max_message_bytes
        self._default_deadline_s = default_deadline_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Replace the handler of our own services by a framed one, others' by a careful one.

        To gRPC, all of them take a stream of requests: so they begin, and may end, before the
        first request is there, and read it themselves.
        """
        method = handler_call_details.method
        framed = self._framed.get(method)
        if framed is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            framed = self._framed[method] = self._frame_once(handler, method)
        return framed

    def _frame_once(self, handler: Any, method: str) -> Any:
        if not method.startswith(f"/{DOMAIN}."):
            return careful(handler, self._receiver)
        if handler.request_streaming:
            read = self._receiver.reader(handler.request_deserializer, is_ours=False)
            return grpc.stream_stream_rpc_method_handler(
                self._exchange(handler.stream_stream, method), read, handler.response_serializer
            )
        read = self._receiver.reader(handler.request_deserializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.unary_stream, method), read, handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(handler.unary_unary, method), read, handler.response_serializer
        )

    def _unary(self, behaviour: Handler, method: str) -> Handler:
        async def handle(requests: object, context: Any) -> Any:
            async with self._frame(context, method, self._time_left_s(context)):
                return await behaviour(await self._receiver.receive(context), context)

        return released(handle)

    def _stream(self, behaviour: Handler, method: str) -> Handler:
        async def handle(requests: object, context: Any) -> None:
            async with self._frame(context, method, self._time_left_s(context)):
                request = await self._receiver.receive(context)
                await _write_all(behaviour(request, context), context)

        return released(handle)

    def _exchange(self, behaviour: Handler, method: str) -> Handler:
        async def handle(requests: object, context: Any) -> None:
            async with (
                self._frame(context, method, context.time_remaining()),
                contextlib.aclosing(self._receiver.receive_all(context)) as received,
            ):
                await _write_all(behaviour(received, context), context)

        return released(handle)

    @contextlib.asynccontextmanager
    async def _frame(self, context: Any, method: str, limit_s: float | None) -> AsyncIterator[None]:
        name = own_request_id(context.invocation_metadata()) or new_request_id()
        begin_call(name)
        current_trace.set(sampled_trace_id(context.invocation_metadata()))
        try:
            context.set_trailing_metadata(((REQUEST_ID_KEY, name),))
            async with within(limit_s):
                await self._on_begin(method, context)
                yield
            context.set_trailing_metadata(((REQUEST_ID_KEY, name), *told.get()))
            self._on_end(method, Code.OK, "")
        except FleetError as error:
            await self._refuse(context, method, error, name)
        except asyncio.CancelledError:
            left_s = time_left_s()  # a deadline cancels too
            if left_s is not None and left_s <= 0:
                self._on_end(method, Code.DEADLINE_EXCEEDED, "deadline_exceeded")
            else:
                self._on_end(method, Code.CANCELLED, "")
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:
            await self._refuse(context, method, unexpected(name), name)

    async def _refuse(self, context: Any, method: str, error: FleetError, name: str) -> NoReturn:
        reason = ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_").lower()
        self._on_end(method, STATUS_OF[error.reason], reason)
        await abort(context, error, name)

    def _time_left_s(self, context: Any) -> float | None:
        left_s: float | None = context.time_remaining()
        limits = [limit for limit in (left_s, self._default_deadline_s) if limit is not None]
        return min(limits, default=None)


async def _write_all(responses: AsyncGenerator[Any, None], context: Any) -> None:
    async with contextlib.aclosing(responses):
        async for response in responses:
            try:
                await context.write(response)
            except grpc.aio.InternalError:  # the caller has gone
                raise asyncio.CancelledError from None


def unexpected(name: str) -> FleetError:
    """What a caller is told of the exception that is being handled; the log has the rest.

    name: the request's id.
    """
    log.exception("call_failed", extra={"request_id": name})
    return FleetError(f"internal error; request id {name}")


def careful(handler: Any, receiver: Receiver) -> Any:
    """A handler of another service (health, reflection), which bad bytes do not break either."""
    read = receiver.reader(handler.request_deserializer, is_ours=False)
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _checked(handler.stream_stream), read, handler.response_serializer
        )

    async def handle(requests: object, context: Any) -> Any:
        try:
            request = await receiver.receive(context)
        except FleetError as error:
            await abort(context, error, new_request_id())
        return await (handler.unary_stream or handler.unary_unary)(request, context)

    make = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(released(handle), read, handler.response_serializer)


def _checked(behaviour: Handler) -> Handler:
    async def handle(requests: AsyncIterator[Any], context: Any) -> AsyncGenerator[Any, None]:
        async def good() -> AsyncGenerator[Any, None]:
            async for request in requests:
                if isinstance(request, FleetError):
                    await abort(context, request, new_request_id())
                yield request

        try:
            async with contextlib.aclosing(behaviour(good(), context)) as responses:
                async for response in responses:
                    yield response
        except grpc.aio.AbortError as error:
            forget(error)

    return handle


async def abort(context: Any, error: FleetError, name: str) -> NoReturn:
    """End the call with the error's status."""
    status = to_status(error)
    ending = ((DETAILS_KEY, status.SerializeToString()), (REQUEST_ID_KEY, name), *told.get(()))
    try:
        await context.abort(STATUS_OF[error.reason], status.message, ending)
    except grpc.aio.InternalError:  # the caller has gone
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")


def to_status(error: FleetError) -> status_pb2.Status:
    """With its ErrorInfo and, where waiting helps, RetryInfo."""
    number: int = STATUS_OF[error.reason].value[0]
    message = _short(error.message, LONGEST_TEXT_BYTES)
    metadata = {key: _short(value, LONGEST_VALUE_BYTES) for key, value in error.metadata.items()}
    status = status_pb2.Status(code=number, message=message)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(
            reason=ErrorReason.Name(error.reason), domain=DOMAIN, metadata=metadata
        )
    )
    if error.retry_after_s is not None:
        delay = Duration(nanos=0)
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _short(text: str, limit_bytes: int) -> str:
    """Of a status, which is sent in headers: a client takes 8 KiB of them, and text of its own that
    is repeated to it may be longer than that.
    """
    data = text.encode()
    return text if len(data) <= limit_bytes else f"{data[:limit_bytes].decode(errors='ignore')}..."


def _classes(root: type[FleetError]) -> dict[ErrorReason.ValueType, type[FleetError]]:
    classes = {root.reason: root}
    for child in root.__subclasses__():
        classes |= _classes(child)
    return classes


def to_failure(error: grpc.aio.AioRpcError) -> FleetError | None:
    """The failure that the other side named, or None where the status has no reason of ours."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    return None


def from_status(status: status_pb2.Status) -> FleetError | None:
    """The failure that `to_status` wrote, or None where the status has no reason of ours."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if not detail.Unpack(info):
            detail.Unpack(retry)
    if info.domain != DOMAIN or info.reason not in REASON_NAMES:
        return None
    reason = ErrorReason.Value(info.reason)
    kind = _classes(FleetError).get(reason, FleetError)
    wait_s = retry.retry_delay.ToNanoseconds() / 1e9 or None
    failure = kind(status.message, retry_after_s=wait_s, **dict(info.metadata))
    failure.reason = reason  # this process may not have the class
    return failure


async def responses_of(
    call: grpc.aio.UnaryStreamCall[Any, Any],
) -> AsyncGenerator[Any, None]:
    """Iterate a streaming call; closing the iterator cancels the call."""
    try:
        async for response in call:
            yield response
    finally:
        call.cancel()
