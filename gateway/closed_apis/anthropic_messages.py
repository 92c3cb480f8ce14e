"""Anthropic's Messages API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anthropic
import httpx2

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2
from gateway.closed_apis.configuration import ClosedApi
from gateway.closed_apis.protocol import (
    UNSET,
    ApiBroken,
    ApiPiece,
    ApiUsage,
    count,
    fault,
    timeout,
)
from model_pool.chat import ROLES

CUT = frozenset({"max_tokens", "model_context_window_exceeded"})
PROMPT_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
# What reading an event that is none raises: the library checks no shapes.
NO_EVENT = (AttributeError, TypeError, ValueError)


class AnthropicMessages:
    """See ApiProtocol."""

    def __init__(self, settings: ClosedApi, key: str) -> None:
        self._settings = settings
        self._client = anthropic.AsyncAnthropic(
            base_url=settings.base_url,
            api_key=key or "none",  # said, so that the library does not look for one
            max_retries=0,  # ours know the deadline and the budget
            # A prompt goes where fleet.yaml sends it, and nowhere else.
            http_client=anthropic.DefaultAsyncHttpxClient(follow_redirects=False),
        )

    async def stop(self) -> None:
        """See ApiProtocol."""
        await self._client.close()

    async def stream(
        self, request: worker_pb2.RunRequest, timeout_s: float
    ) -> AsyncGenerator[ApiPiece, None]:
        """See ApiProtocol."""
        try:
            stream: Any = await self._client.messages.create(
                **self._arguments(request), stream=True, timeout=timeout(timeout_s)
            )
            async with stream, contextlib.aclosing(_pieces(stream)) as pieces:
                async for piece in pieces:
                    yield piece
        except (anthropic.AnthropicError, httpx2.HTTPError) as error:
            raise fault(error, anthropic) from error
        except NO_EVENT as error:
            raise ApiBroken("what came is no message") from error

    def _arguments(self, request: worker_pb2.RunRequest) -> dict[str, Any]:
        system = [one.content for one in request.messages if one.role == routing_pb2.ROLE_SYSTEM]
        arguments: dict[str, Any] = {
            "model": self._settings.model,
            "max_tokens": request.max_output_token_count,
            "messages": [
                {"role": ROLES[one.role], "content": one.content}
                for one in request.messages
                if one.role != routing_pb2.ROLE_SYSTEM
            ],
        }
        if system:
            arguments["system"] = "\n\n".join(system)
        if request.stop:
            arguments["stop_sequences"] = list(request.stop)
        return arguments


async def _pieces(events: AsyncIterator[Any]) -> AsyncGenerator[ApiPiece, None]:
    """Counts in later events are cumulative and take the place of earlier ones."""
    finish, counts = UNSET, dict[str, object]()
    is_whole = False
    async for event in events:
        match event.type:
            case "message_start":
                counts |= _told(event.message.usage)
            case "content_block_delta" if event.delta.type == "text_delta":
                yield ApiPiece(event.delta.text)
            case "message_delta":
                counts |= _told(event.usage)
                finish = _finish(event.delta.stop_reason) or finish
            case "message_stop":
                is_whole = True
    if not finish or not is_whole:
        raise ApiBroken("the answer broke off before its end")
    yield ApiPiece("", _usage(counts), finish)


def _told(usage: Any) -> dict[str, object]:
    names = (*PROMPT_COUNTS, "output_tokens")
    told = {name: getattr(usage, name, None) for name in names}
    return {name: value for name, value in told.items() if value is not None}


def _usage(counts: dict[str, object]) -> ApiUsage | None:
    """Their input_tokens are those that no cache was read for."""
    if not {"input_tokens", "output_tokens"} <= set(counts):
        return None
    fresh, created, cached = (count(counts.get(name, 0)) for name in PROMPT_COUNTS)
    output = count(counts["output_tokens"])
    if fresh is None or created is None or cached is None or output is None:
        return None
    return ApiUsage(fresh + created + cached, cached, output)


def _finish(reason: str | None) -> inference_pb2.FinishReason.ValueType:
    if reason is None:
        return UNSET
    is_cut = reason in CUT
    return inference_pb2.FINISH_REASON_LENGTH if is_cut else inference_pb2.FINISH_REASON_STOP
