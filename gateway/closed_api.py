"""The target outside the fleet: any OpenAI-compatible HTTP endpoint, streamed, really billed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import openai
from pydantic import SecretStr

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2
from gateway.errors import ClosedApiFailed
from gateway.ledger import AnswerPiece
from gateway.pricing import TokenPrice
from gateway.settings import ClosedApi

ROLES = {
    routing_pb2.ROLE_SYSTEM: "system",
    routing_pb2.ROLE_USER: "user",
    routing_pb2.ROLE_ASSISTANT: "assistant",
}


class ClosedApiClient:
    """Streams chat completions; the cost is the endpoint's own usage at the list price."""

    def __init__(self, settings: ClosedApi, key: SecretStr | None, price: TokenPrice) -> None:
        self._settings = settings
        self._price = price
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=key.get_secret_value() if key else "none",
            timeout=settings.timeout_s,
            max_retries=1,
        )

    async def stop(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def generate(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[AnswerPiece, None]:
        """Stream the answer. Raises ClosedApiFailed."""
        try:
            stream = await self._client.chat.completions.create(
                **self._arguments(request), timeout=timeout_s or self._settings.timeout_s
            )
            async with stream:
                finish = inference_pb2.FINISH_REASON_UNSPECIFIED
                usage = None
                async for chunk in stream:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        finish = _finish(choice.finish_reason) or finish
                        if choice.delta.content:
                            yield self._piece(
                                choice.delta.content,
                                usage,
                                inference_pb2.FINISH_REASON_UNSPECIFIED,
                            )
            yield self._piece("", usage, finish or inference_pb2.FINISH_REASON_STOP)
        except openai.OpenAIError as error:
            raise ClosedApiFailed(
                f"{self._settings.name} failed: {type(error).__name__}",
                retry_after_s=1.0,
                baseline=self._settings.name,
            ) from error

    def _arguments(self, request: worker_pb2.RunRequest) -> dict[str, Any]:
        messages = [{"role": ROLES[one.role], "content": one.content} for one in request.messages]
        arguments: dict[str, Any] = {
            "model": self._settings.model,
            "messages": messages,
            "max_completion_tokens": request.max_output_token_count,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.stop:
            arguments["stop"] = list(request.stop)
        if request.HasField("seed"):
            arguments["seed"] = request.seed
        return arguments

    def _piece(
        self, text: str, usage: Any, finish: inference_pb2.FinishReason.ValueType
    ) -> AnswerPiece:
        prompt = usage.prompt_tokens if usage else 0
        output = usage.completion_tokens if usage else (1 if text else 0)
        return AnswerPiece(
            text=text,
            prompt_token_count=prompt,
            output_token_count=output,
            busy_s=0.0,
            cost_nano_usd=self._price.cost_nano_usd(prompt, output),
            worker="",
            weights_digest="",
            finish_reason=finish,
        )


def _finish(reason: str | None) -> inference_pb2.FinishReason.ValueType:
    if reason is None:
        return inference_pb2.FINISH_REASON_UNSPECIFIED
    if reason == "length":
        return inference_pb2.FINISH_REASON_LENGTH
    return inference_pb2.FINISH_REASON_STOP
