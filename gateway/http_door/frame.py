"""The frame of every HTTP request: id, who calls, deadline, size, its caller's leaving, failures.

What `model_pool.rpc.Door` is for gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from gateway.caller import CALLER_KEY, Call, Caller, Scope, current_caller, named_caller
from gateway.http_door.reply import Reply
from gateway.http_door.statuses import reason_of
from model_pool.call import (
    REQUEST_ID_KEY,
    begin_call,
    current_trace,
    new_request_id,
    own_request_id,
    request_id,
    within,
)
from model_pool.errors import (
    DeadlineExceeded,
    Draining,
    FleetError,
    InvalidParameter,
    MalformedMessage,
    MessageTooLarge,
)
from model_pool.rpc import HARD_LIMIT_BYTES
from model_pool.traceparent import KEY as TRACE_KEY
from model_pool.traceparent import header_of, sampled_trace_id

IDEMPOTENCY_KEY = "idempotency-key"
TIMEOUT_KEY = "x-deltafleet-timeout-s"
ABORT = "deltafleet.abort"  # the extension of a connection that has "cut"
BODY_LIMIT_S = 30.0  # for a body to arrive
CALLER_LEFT = 499  # as nginx counts them; nobody is told
_DEADLINE = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)

log = logging.getLogger(__name__)
# Finds out who calls, and refuses by raising.
AdmitHttp = Callable[[Headers, Scope], Awaitable[Caller]]
# Path, status, and the ErrorReason in lower case without its prefix; "" for none.
OnHttpEnd = Callable[[str, int, str], None]


class CallerLeft(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request, admitted and read."""

    call: Call
    body: bytes
    path_params: dict[str, str]


Endpoint = Callable[[Incoming, Reply], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every request. default_deadline_s: and the longest."""

    max_message_bytes: int
    default_deadline_s: float
    admit: AdmitHttp
    on_end: OnHttpEnd


async def admit_by_name(headers: Headers, scope: Scope) -> Caller:
    """The admission of a gateway without keys."""
    return named_caller([(CALLER_KEY, headers.get(CALLER_KEY, ""))])


class Frame:
    """One path, as an ASGI application. path: as metrics tell it."""

    def __init__(self, path: str, endpoint: Endpoint, rules: Rules, *, has_body: bool) -> None:
        self._path = path
        self._endpoint = endpoint
        self._rules = rules
        self._has_body = has_body

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens is told and counted, nothing is raised."""
        headers = Headers(scope=scope)
        name = _own_id(headers) or new_request_id()
        begin_call(name)
        cut = scope.get("extensions", {}).get(ABORT, {}).get("cut", _nothing)
        reply = Reply(send, name, cut)
        try:
            await self._answer(scope, receive, headers, reply)
            self._rules.on_end(self._path, reply.status, "")
        except CallerLeft:
            self._rules.on_end(self._path, CALLER_LEFT, "")
        except FleetError as error:
            await self._refuse(reply, error)
        except asyncio.CancelledError:  # nobody but the server does this, when its time is up
            await self._refuse(reply, Draining("the server is shutting down"))
        except Exception:
            log.exception("request_failed", extra={"request_id": name})
            await self._refuse(reply, FleetError(f"internal error; request id {name}"))

    async def _refuse(self, reply: Reply, error: FleetError) -> None:
        await reply.refuse(error)
        self._rules.on_end(self._path, reply.status, reason_of(error))

    async def _answer(
        self, scope: Connection, receive: Receive, headers: Headers, reply: Reply
    ) -> None:
        trace = [(TRACE_KEY, value) for value in headers.getlist(TRACE_KEY)]
        current_trace.set(sampled_trace_id(trace))
        async with within(_limit_s(headers, self._rules.default_deadline_s)):
            # Refused before it is read, a large body would have to be waited for.
            reply.closes = _declared_bytes(headers) > self._rules.max_message_bytes
            caller = await self._rules.admit(headers, Scope.INFER)
            current_caller.set(caller)
            body = await self._read(headers, receive, reply) if self._has_body else b""
            own = _own_id(headers)
            if IDEMPOTENCY_KEY in headers and not _plain(headers[IDEMPOTENCY_KEY]):
                raise InvalidParameter(
                    f"{IDEMPOTENCY_KEY}: 1 to 128 letters, digits, and . _ : -",
                    field=IDEMPOTENCY_KEY,
                )
            call = Call(
                request_id.get(), caller, has_own_id=bool(own), traceparent=header_of(trace)
            )
            async with _until_caller_leaves(receive):
                await self._endpoint(Incoming(call, body, scope.get("path_params", {})), reply)

    async def _read(self, headers: Headers, receive: Receive, reply: Reply) -> bytes:
        # A page of another site may send text/plain without asking the browser's leave.
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise MalformedMessage("the content-type must be application/json")
        if headers.get("content-encoding", "identity") != "identity":
            raise MalformedMessage("a body with a content-encoding is not read")
        reply.closes = True  # until it is read
        body = await _read_body(receive, self._rules.max_message_bytes)
        reply.closes = False
        return body


def _declared_bytes(headers: Headers) -> float:
    length = headers.get("content-length", "")
    if length.isdecimal():
        return int(length[:20])
    return math.inf if "transfer-encoding" in headers else 0


def _limit_s(headers: Headers, default_s: float) -> float:
    text = headers.get(TIMEOUT_KEY)
    if text is None:
        return default_s
    if not _DEADLINE.fullmatch(text) or not float(text):
        raise InvalidParameter(f"{TIMEOUT_KEY}: seconds, such as 2.5", field=TIMEOUT_KEY)
    return min(float(text), default_s)


def _own_id(headers: Headers) -> str:
    """The id that the caller gives its request; "" where it gives none that is plain.

    A key takes the place of x-request-id, which a proxy may set anew for each attempt.
    """
    return _plain(headers.get(IDEMPOTENCY_KEY, "")) or _plain(headers.get(REQUEST_ID_KEY, ""))


def _plain(text: str) -> str:
    return own_request_id([(REQUEST_ID_KEY, text.strip().strip('"'))])


def _nothing() -> None:
    """There is no connection to cut."""


async def _read_body(receive: Receive, limit_bytes: int) -> bytes:
    """What is too large is read to its end, within bounds, so that its sender hears of it."""
    parts, size_bytes = [], 0
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                part = message.get("body", b"")
                size_bytes += len(part)
                if size_bytes <= limit_bytes:
                    parts.append(part)
                if not message.get("more_body", False) or size_bytes > HARD_LIMIT_BYTES:
                    break
    except TimeoutError:
        raise DeadlineExceeded(f"the body took longer than {BODY_LIMIT_S:g} s") from None
    if size_bytes > limit_bytes:
        raise MessageTooLarge(
            f"the body has {size_bytes} bytes or more; the limit is {limit_bytes}",
            size_bytes=size_bytes,
            limit_bytes=limit_bytes,
        )
    return b"".join(parts)


@contextlib.asynccontextmanager
async def _until_caller_leaves(receive: Receive) -> AsyncIterator[None]:
    """Cancel what happens inside when the connection is lost. Raises CallerLeft then."""
    answering = asyncio.current_task()
    assert answering is not None
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await receive())["type"] != "http.disconnect":
            pass
        has_left = True
        answering.cancel()

    watching = asyncio.create_task(watch(), name="watch a caller")
    try:
        yield
    except asyncio.CancelledError:
        if not has_left:
            raise
        answering.uncancel()
        raise CallerLeft from None
    finally:
        watching.cancel()
