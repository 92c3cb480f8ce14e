"""Texts for vLLM and from it: conversations as token ids, answers as text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from model_pool.engine import Message
from model_pool.errors import InvalidParameter, PromptTooLong


class PromptReader:
    """Applies the base's chat template, in a thread of its own: a tokenizer serves one thread."""

    def __init__(self, tokenizer: Any) -> None:
        """Use `open`."""
        self._tokenizer = tokenizer
        # A copy of its own: the event loop decodes while the thread encodes.
        self._decoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._thread = ThreadPoolExecutor(1, "engine-read")

    @classmethod
    def open(cls, path: Path) -> PromptReader:
        """Read the tokenizer from the base. Raises ValueError for one without chat template."""
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        if not tokenizer.chat_template:
            raise ValueError(f"{path}: the tokenizer has no chat template")
        if not tokenizer.is_fast:
            raise ValueError(f"{path}: no tokenizer.json that the tokenizers library reads")
        return cls(tokenizer)

    async def read(self, messages: Sequence[Message], context_token_count: int) -> list[int]:
        """The token ids of a conversation, up to where the answer begins.

        Raises InvalidParameter for one that the template does not take, PromptTooLong for one
        that leaves no room for an answer.
        """
        prompt_ids = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._encode, messages
        )
        if len(prompt_ids) >= context_token_count:
            raise PromptTooLong(
                f"the prompt has {len(prompt_ids)} tokens, and the context {context_token_count} "
                "with the answer",
                prompt_token_count=len(prompt_ids),
                context_token_count=context_token_count,
            )
        return prompt_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self._decoder.decode(token_ids, skip_special_tokens=True)
        return text

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        turns = [{"role": turn.role.value, "content": turn.content} for turn in messages]
        try:
            token_ids: list[int] = self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise InvalidParameter(
                f"the model's chat template refuses these messages: {error}", field="messages"
            ) from error
        return token_ids
