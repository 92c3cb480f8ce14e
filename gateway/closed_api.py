"""The target outside the fleet: any OpenAI-compatible HTTP endpoint, streamed, really billed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import openai
from pydantic import SecretStr

from deltafleet.v1 import worker_pb2
from gateway.errors import ClosedApiFailed
from gateway.ledger import AnswerPiece
from gateway.pricing import TokenPrice
from gateway.settings import ClosedApi
from model_pool.chat import ChatPiece, chat_arguments, stream_chat


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
        arguments = chat_arguments(request, self._settings.model)
        arguments["max_completion_tokens"] = request.max_output_token_count
        chat = stream_chat(self._client, arguments, timeout_s or self._settings.timeout_s)
        try:
            async with contextlib.aclosing(chat) as pieces:
                async for piece in pieces:
                    yield self._answer(piece)
        except openai.OpenAIError as error:
            raise ClosedApiFailed(
                f"{self._settings.name} failed: {type(error).__name__}",
                retry_after_s=1.0,
                baseline=self._settings.name,
            ) from error

    def _answer(self, piece: ChatPiece) -> AnswerPiece:
        prompt, output = piece.prompt_token_count, piece.output_token_count
        return AnswerPiece(
            text=piece.text,
            prompt_token_count=prompt,
            output_token_count=output,
            busy_s=0.0,
            cost_nano_usd=self._price.cost_nano_usd(prompt, output),
            worker="",
            weights_digest="",
            finish_reason=piece.finish_reason,
        )
