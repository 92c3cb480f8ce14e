"""One closed API: redacted, within its budget, tried again before the first token, then billed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import replace

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2
from gateway.answer import AnswerPiece
from gateway.closed_apis.configuration import ClosedApi
from gateway.closed_apis.protocol import (
    ApiBroken,
    ApiPiece,
    ApiProtocol,
    ApiRefused,
    ApiUsage,
)
from gateway.closed_apis.redaction import Redactor
from gateway.closed_apis.shared_budget import SharedBudget, SharedCover
from gateway.errors import BudgetSpent, ClosedApiFailed
from gateway.pricing import TokenPrice
from gateway.spending import Budget, Reservation
from model_pool.call import time_left_s
from model_pool.errors import PromptTooLong

# Tokens that an API's own frame takes at most, around each message and in all.
MESSAGE_TOKEN_COUNT, FRAME_TOKEN_COUNT = 16, 64
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0
RETRY_AFTER_S = 1.0
TOO_LARGE = 413


def most_nano_usd(
    price: TokenPrice, messages: Iterable[routing_pb2.ChatMessage], output_token_count: int
) -> int:
    """What an answer costs at most: no tokenizer makes more tokens of a text than bytes, and no
    cached token costs more than another. Where longer prompts have other rates, a shorter one may
    be the dearest.
    """
    longest = FRAME_TOKEN_COUNT
    for message in messages:
        longest += MESSAGE_TOKEN_COUNT + len(message.content.encode())
    ends = [tier.above_prompt_token_count for tier in price.tiers]
    prompts = [longest, *(end for end in ends if end < longest)]
    return max(price.cost_nano_usd(prompt, output_token_count) for prompt in prompts)


class ClosedApiClient:
    """Streams answers; every piece but the last costs what the request may cost at most.

    shared: the budget of all gateways, where there is one. time_left: seconds until the call's
    deadline; None: it has none.
    """

    def __init__(
        self,
        name: str,
        settings: ClosedApi,
        protocol: ApiProtocol,
        price: TokenPrice,
        budget: Budget,
        redactor: Redactor,
        *,
        shared: SharedBudget | None = None,
        time_left: Callable[[], float | None] = time_left_s,
    ) -> None:
        self._name = name
        self.shared = shared
        self._settings = settings
        self._protocol = protocol
        self._redactor = redactor
        self._time_left_s = time_left
        self.price = price
        self.budget = budget

    async def stop(self) -> None:
        """Close the connections."""
        await self._protocol.stop()

    def most_nano_usd(self, request: worker_pb2.RunRequest) -> int:
        """What the request may cost at most."""
        return most_nano_usd(self.price, request.messages, request.max_output_token_count)

    def refusal(
        self, messages: Iterable[routing_pb2.ChatMessage], output_token_count: int
    ) -> BudgetSpent | None:
        """Why the budget does not allow such a request now; None: it does."""
        return self.budget.refusal(most_nano_usd(self.price, messages, output_token_count))

    def reserve(self, request: worker_pb2.RunRequest) -> Reservation:
        """Hold what the request costs at most. Raises BudgetSpent."""
        return self.budget.reserve(self.most_nano_usd(request))

    async def generate(
        self,
        request: worker_pb2.RunRequest,
        reservation: Reservation,
        cover: SharedCover | None = None,
    ) -> AsyncGenerator[AnswerPiece, None]:
        """Stream the answer. The caller closes the reservation, and the cover after it.

        Raises ClosedApiFailed, PromptTooLong, RedactionFailed; BudgetSpent where redacting made the
        request longer, or a lost try left too little for another.
        """
        request = await self._redactor.redact(request)
        most = self.most_nano_usd(request)
        pause_s = FIRST_PAUSE_S
        for retries_left in range(self._settings.max_retries, -1, -1):
            reservation.hold(most)
            if cover:
                await cover.extend()
            # So that the ledger has it, however this ends; who may not pay it can still say so.
            yield replace(_unfinished(reservation), is_promised=True)
            has_begun = False
            try:
                async with contextlib.aclosing(self._try(request, reservation)) as pieces:
                    async for piece in pieces:
                        has_begun = has_begun or bool(piece.text)
                        yield piece
                return
            except (ApiRefused, ApiBroken) as error:
                yield _unfinished(reservation)
                wait_s = self._wait_s(error, pause_s)
                left_s = self._time_left_s()
                may_wait = wait_s is not None and (left_s is None or wait_s < left_s)
                if has_begun or not retries_left or not may_wait:
                    raise self._failure(error) from error
            assert wait_s is not None, "may_wait"
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _try(
        self, request: worker_pb2.RunRequest, reservation: Reservation
    ) -> AsyncGenerator[AnswerPiece, None]:
        limit_s, left_s, text_count = self._settings.timeout_s, self._time_left_s(), 0
        timeout_s = limit_s if left_s is None else max(0.001, min(limit_s, left_s))
        reservation.is_sent = True
        try:
            stream = self._protocol.stream(request, timeout_s)
            async with contextlib.aclosing(stream) as pieces:
                async for piece in pieces:
                    if piece.finish_reason:
                        yield self._last(piece, text_count, reservation)
                        return
                    text_count += 1
                    yield _unfinished(reservation, piece.text, text_count)
        except ApiRefused:
            reservation.bill(0)
            raise
        except ApiBroken:
            reservation.bill_unknown()
            raise

    def _last(self, piece: ApiPiece, text_count: int, reservation: Reservation) -> AnswerPiece:
        """An answer without usage is billed at most."""
        usage = piece.usage
        if usage is None:
            reservation.bill_unknown()
            usage = ApiUsage(0, 0, text_count)
        else:
            counts = usage.prompt_token_count, usage.output_token_count
            cached = usage.cached_prompt_token_count
            reservation.bill(self.price.cost_nano_usd(*counts, cached))
        return AnswerPiece(
            text="",
            prompt_token_count=usage.prompt_token_count,
            output_token_count=usage.output_token_count,
            cost_nano_usd=reservation.most_nano_usd,
            finish_reason=piece.finish_reason,
        )

    def _wait_s(self, error: ApiRefused | ApiBroken, pause_s: float) -> float | None:
        """Seconds until another try; None: it would not help."""
        if isinstance(error, ApiBroken):
            return pause_s
        if not error.may_pass:
            return None
        # Spread, so that those who were refused together do not come back together.
        return max(error.retry_after_s or 0.0, pause_s * random.uniform(0.5, 1.0))

    def _failure(self, error: ApiRefused | ApiBroken) -> ClosedApiFailed | PromptTooLong:
        told = f"{self._name} failed: {error}"
        if isinstance(error, ApiRefused):
            if error.status == TOO_LARGE:
                return PromptTooLong(told)
            if not error.may_pass:
                return ClosedApiFailed(told, closed_api=self._name)
            retry_after_s = error.retry_after_s or RETRY_AFTER_S
            return ClosedApiFailed(told, retry_after_s=retry_after_s, closed_api=self._name)
        return ClosedApiFailed(told, retry_after_s=RETRY_AFTER_S, closed_api=self._name)


def _unfinished(reservation: Reservation, text: str = "", text_count: int = 0) -> AnswerPiece:
    return AnswerPiece(
        text=text,
        prompt_token_count=0,
        output_token_count=text_count,
        cost_nano_usd=reservation.most_nano_usd,
        finish_reason=inference_pb2.FINISH_REASON_UNSPECIFIED,
    )
