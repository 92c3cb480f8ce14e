"""Chat completions of an OpenAI-compatible endpoint, streamed: what is asked, what is heard."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2
from model_pool.log_probability_mean import LogProbabilityMean

ROLES = {
    routing_pb2.ROLE_SYSTEM: "system",
    routing_pb2.ROLE_USER: "user",
    routing_pb2.ROLE_ASSISTANT: "assistant",
}
# vLLM's words for an answer that broke off.
BROKEN_OFF = ("abort", "error")


class ChatFailed(openai.OpenAIError):
    """What came is no chat completion, or lacks its end."""


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """Some more of an answer; everything but text is cumulative.

    An endpoint counts tokens at the end; until then each text counts as one, the prompt as none.
    finish_reason: in the last piece only. mean_log_probability: there, over the tokens of which the
    endpoint told it, if any. vLLM tells the answer's end too, OpenAI and llama.cpp do not.
    """

    text: str
    prompt_token_count: int
    output_token_count: int
    finish_reason: inference_pb2.FinishReason.ValueType = inference_pb2.FINISH_REASON_UNSPECIFIED
    mean_log_probability: float | None = None


def chat_arguments(request: worker_pb2.RunRequest, model: str) -> dict[str, Any]:
    """The request in the endpoint's words, but for the longest answer, which has two names.

    model: the endpoint's own name of it.
    """
    arguments: dict[str, Any] = {
        "model": model,
        "messages": [{"role": ROLES[one.role], "content": one.content} for one in request.messages],
        "temperature": request.temperature,
        "top_p": request.top_p,
    }
    if request.stop:
        arguments["stop"] = list(request.stop)
    if request.HasField("seed"):
        arguments["seed"] = request.seed
    return arguments


async def stream_chat(
    client: openai.AsyncOpenAI, arguments: dict[str, Any], timeout: float | openai.Timeout | None
) -> AsyncGenerator[ChatPiece, None]:
    """Stream the answer; closing the generator closes the response.

    timeout: seconds for each read. Raises openai.OpenAIError.
    """
    try:
        stream = await client.chat.completions.create(
            **arguments, stream=True, stream_options={"include_usage": True}, timeout=timeout
        )
        async with contextlib.aclosing(_pieces(stream)) as pieces:
            async for piece in pieces:
                yield piece
    except (AttributeError, TypeError, ValueError) as error:  # the library checks no shapes
        raise ChatFailed("what came is no chat completion") from error


async def _pieces(
    stream: openai.AsyncStream[ChatCompletionChunk],
) -> AsyncGenerator[ChatPiece, None]:
    usage, text_count, log_probability = None, 0, LogProbabilityMean()
    finish = inference_pb2.FINISH_REASON_UNSPECIFIED
    async with stream:
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices or ():
                finish = _finish(choice.finish_reason) or finish
                for told in _log_probabilities(choice):
                    log_probability.add(told)
                if choice.delta and choice.delta.content:
                    text_count += 1
                    yield ChatPiece(choice.delta.content, 0, text_count)
    if not finish:
        raise ChatFailed("the answer broke off before its end")
    prompt_count, output_count = 0, text_count
    if usage:
        prompt_count = usage.prompt_tokens or 0
        output_count = usage.completion_tokens or text_count
    yield ChatPiece("", prompt_count, output_count, finish, log_probability.value)


def _log_probabilities(choice: Any) -> list[float | None]:
    """Of the tokens in a chunk. None for what is no number: an answer does not fail of it."""
    tokens = getattr(choice.logprobs, "content", None)
    told = [getattr(token, "logprob", None) for token in tokens or ()]
    return [one if isinstance(one, int | float) else None for one in told]


def _finish(reason: str | None) -> inference_pb2.FinishReason.ValueType:
    if reason is None or reason in BROKEN_OFF:
        return inference_pb2.FINISH_REASON_UNSPECIFIED
    if reason == "length":
        return inference_pb2.FINISH_REASON_LENGTH
    return inference_pb2.FINISH_REASON_STOP
