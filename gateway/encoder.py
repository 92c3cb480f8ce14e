"""Texts → unit rows, off the event loop; concurrent callers together, repeated texts at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gateway.routing.onnx_encoder import FIRST_TOKENS, LAST_TOKENS, OnnxEncoder
from gateway.routing.row_cache import RowCache
from gateway.routing.words import Floats
from model_pool.errors import PromptTooLong

LARGEST_BATCH_COUNT = 64
LONGEST_TOKEN_COUNT = FIRST_TOKENS + LAST_TOKENS
LONGEST_CHARACTER_COUNT = 100 * LONGEST_TOKEN_COUNT  # longer, it is not even tokenized
Tokens = list[int]


class BatchedEncoder:
    """The full encoder behind a thread of its own.

    The thread works on one batch at a time; what arrives meanwhile is the next batch, so that a
    lone caller never waits for company. load: makes the encoder, in that thread. cache_count: rows
    that are remembered.
    """

    def __init__(self, load: Callable[[], OnnxEncoder], *, cache_count: int) -> None:
        self._load = load
        self._cache = RowCache(cache_count)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._waiting: list[tuple[Tokens, asyncio.Future[Floats]]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the encoder. Raises BadRouter where it is damaged or missing."""
        loop = asyncio.get_running_loop()
        self._encoder = await loop.run_in_executor(self._thread, self._load)

    async def stop(self) -> None:
        """End the thread."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True, cancel_futures=True)

    def remembered(self, text: str) -> tuple[Tokens, Floats | None]:
        """What the encoder reads of a text, and its row where that is remembered."""
        tokens = self._encoder.tokens(text)
        return tokens, self._cache.get(tokens)

    async def embed(self, text: str) -> tuple[Floats, int]:
        """A whole text's row, and how many tokens it has. Raises PromptTooLong.

        Of longer texts only their ends would be read.
        """
        if len(text) <= LONGEST_CHARACTER_COUNT:
            tokens = self._encoder.all_tokens(text)
            if len(tokens) <= LONGEST_TOKEN_COUNT:
                row = self._cache.get(tokens)
                return (await self.encode(tokens) if row is None else row), len(tokens)
        raise PromptTooLong(
            f"the encoder reads texts of at most {LONGEST_TOKEN_COUNT} tokens",
            context_token_count=LONGEST_TOKEN_COUNT,
        )

    async def encode(self, tokens: Tokens) -> Floats:
        """tokens: as `remembered` gives them. Returns float32[dim], of Euclidean length 1."""
        answer: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="encode")
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            listed = [tokens for tokens, _ in batch]
            try:
                rows = await loop.run_in_executor(self._thread, self._encoder.run, listed)
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (tokens, answer), row in zip(batch, rows, strict=True):
                self._cache.put(tokens, row)  # also where nobody waits any more: who asks again
                if not answer.done():
                    answer.set_result(row)

    def _take(self) -> list[tuple[Tokens, asyncio.Future[Floats]]]:
        self._waiting = [one for one in self._waiting if not one[1].done()]
        batch = self._waiting[:LARGEST_BATCH_COUNT]
        del self._waiting[:LARGEST_BATCH_COUNT]
        return batch
