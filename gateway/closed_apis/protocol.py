"""What a closed API is to us: a stream of texts, a bill, and two ways to fail."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx2

from deltafleet.v1 import inference_pb2, worker_pb2

# Too many requests, or a fault that may pass. 529 is Anthropic's word for being overloaded.
PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
CONNECT_LIMIT_S = 5.0
UNSET = inference_pb2.FINISH_REASON_UNSPECIFIED


@dataclass(frozen=True, slots=True)
class ApiUsage:
    """Tokens that are billed. cached: the part of the prompt that was cheaper."""

    prompt_token_count: int
    cached_prompt_token_count: int
    output_token_count: int


@dataclass(frozen=True, slots=True)
class ApiPiece:
    """Some more text, or the end: usage (None: the API told none that makes sense) and why."""

    text: str
    usage: ApiUsage | None = None
    finish_reason: inference_pb2.FinishReason.ValueType = UNSET


class ApiRefused(Exception):
    """The request was not answered at all, so it is not billed.

    status: HTTP's; None where no connection came about. retry_after_s: the API's word, if any.
    """

    def __init__(self, text: str, status: int | None, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        """Whether another try may help."""
        return self.status is None or self.status in PASSING_STATUSES


class ApiBroken(Exception):
    """The answer broke off, or made no sense. It may have been billed."""


class ApiProtocol(Protocol):
    """One way to ask: OpenAI's chat completions, Anthropic's Messages."""

    def stream(
        self, request: worker_pb2.RunRequest, timeout_s: float
    ) -> AsyncGenerator[ApiPiece, None]:
        """The answer; its last piece, and only that one, has a finish_reason.

        timeout_s: without a word. Raises ApiRefused, ApiBroken.
        """
        ...

    async def stop(self) -> None:
        """Close the connections."""
        ...


def timeout(timeout_s: float) -> httpx2.Timeout:
    """For each read and for the connection."""
    return httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_LIMIT_S))


class ClientLibrary(Protocol):
    """What the providers' own libraries have in common. They are large: one is imported if used."""

    @property
    def APIStatusError(self) -> type[Exception]:
        """The API's answer was an error; it has a response."""
        ...

    @property
    def APIConnectionError(self) -> type[Exception]:
        """There was no answer."""
        ...


def fault(error: Exception, library: ClientLibrary) -> ApiRefused | ApiBroken:
    """A client library's error in our words. Without the API's own text: it may hold the prompt."""
    kind = type(error).__name__
    if isinstance(error, library.APIStatusError):
        response: httpx2.Response = error.response  # type: ignore[attr-defined]
        status = response.status_code  # an error within a stream comes with the stream's own
        if status >= 300:
            return ApiRefused(f"{kind}, status {status}", status, retry_after_s(response))
    if isinstance(error, library.APIConnectionError):
        cause = error.__cause__
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            return ApiRefused(f"no connection: {type(cause).__name__}", None)
    return ApiBroken(kind)


def retry_after_s(response: httpx2.Response) -> float | None:
    """The header's seconds, or its date as seconds after the response's own; None: neither."""
    said = response.headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        seconds = float(said)
        return seconds if 0 <= seconds < float("inf") else None
    with contextlib.suppress(ValueError, TypeError):
        now = parsedate_to_datetime(response.headers.get("date", ""))
        return max(0.0, (parsedate_to_datetime(said) - now).total_seconds())
    return None


def count(value: object) -> int | None:
    """A count of tokens; None where it is none."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if is_count else None  # type: ignore[return-value]
