"""Chat completions, as OpenAI's API and many others speak them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk

from deltafleet.v1 import inference_pb2, worker_pb2
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
from model_pool.chat import chat_arguments

SAMPLING = ("temperature", "top_p", "seed")
# What reading a chunk that is none raises: the library checks no shapes.
NO_CHUNK = (AttributeError, TypeError, ValueError)


class OpenAIChat:
    """See ApiProtocol."""

    def __init__(self, settings: ClosedApi, key: str) -> None:
        self._settings = settings
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=key or "none",
            max_retries=0,  # ours know the deadline and the budget
            # A prompt goes where fleet.yaml sends it, and nowhere else.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )

    async def stop(self) -> None:
        """See ApiProtocol."""
        await self._client.close()

    async def stream(
        self, request: worker_pb2.RunRequest, timeout_s: float
    ) -> AsyncGenerator[ApiPiece, None]:
        """See ApiProtocol."""
        try:
            stream = await self._client.chat.completions.create(
                **self._arguments(request), stream=True, timeout=timeout(timeout_s)
            )
            async with stream, contextlib.aclosing(_pieces(stream)) as pieces:
                async for piece in pieces:
                    yield piece
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise fault(error, openai) from error
        except NO_CHUNK as error:
            raise ApiBroken("what came is no chat completion") from error

    def _arguments(self, request: worker_pb2.RunRequest) -> dict[str, Any]:
        arguments = chat_arguments(request, self._settings.model)
        if not self._settings.sends_sampling:
            arguments = {name: arguments[name] for name in arguments if name not in SAMPLING}
        return arguments | {
            "max_completion_tokens": request.max_output_token_count,
            "stream_options": {"include_usage": True},
        }


async def _pieces(stream: AsyncIterator[ChatCompletionChunk]) -> AsyncGenerator[ApiPiece, None]:
    finish, usage = UNSET, None
    async for chunk in stream:
        usage = _usage(chunk.usage) if chunk.usage else usage
        for choice in chunk.choices or ():
            finish = _finish(choice.finish_reason) or finish
            if choice.delta and choice.delta.content:
                yield ApiPiece(choice.delta.content)
    if not finish:
        raise ApiBroken("the answer broke off before its end")
    yield ApiPiece("", usage, finish)


def _usage(said: Any) -> ApiUsage | None:
    details = getattr(said, "prompt_tokens_details", None)
    prompt, output = count(said.prompt_tokens), count(said.completion_tokens)
    cached = count(getattr(details, "cached_tokens", None) or 0)
    if prompt is None or output is None or cached is None or cached > prompt:
        return None
    return ApiUsage(prompt, cached, output)


def _finish(reason: str | None) -> inference_pb2.FinishReason.ValueType:
    if reason is None:
        return UNSET
    is_cut = reason == "length"
    return inference_pb2.FINISH_REASON_LENGTH if is_cut else inference_pb2.FINISH_REASON_STOP
