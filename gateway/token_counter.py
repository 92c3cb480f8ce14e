"""How many tokens OpenAI's APIs would bill for a text: their tokenizer is public.

`tokenizers/` holds its vocabulary under the name by which tiktoken looks for it (the SHA-1 of the
address that OpenAI publishes it at); tiktoken checks its content.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import tiktoken

from gateway.pricing import TextSize

Tokenizer = Literal["o200k_base"]
_VOCABULARIES = Path(__file__).with_name("tokenizers")

# What the chat format adds: to each message, with its role's own token, and before the answer.
# Source: OpenAI's cookbook, "How to count tokens with tiktoken".
TOKENS_PER_MESSAGE = 3 + 1
TOKENS_BEFORE_ANSWER = 3
# A text is counted so far, and the rest of it in proportion: at most some 40 ms for any text.
COUNTED_CHARACTER_COUNT = 100_000

# Models' names begin so. Source: tiktoken's own table (model.py, 0.14).
_O200K = ("gpt-5", "gpt-4.5", "gpt-4.1", "gpt-4o", "chatgpt-4o", "o1", "o3", "o4-mini")


def openai_tokenizer(model: str) -> Tokenizer | None:
    """Of one of OpenAI's models, by its name; None: another one, or not known."""
    return "o200k_base" if model.removeprefix("ft:").startswith(_O200K) else None


class TokenCounter:
    """Counts with the tokenizers that it was made for; of other APIs, characters."""

    def __init__(self, tokenizers: Iterable[str]) -> None:
        """Loads them: a quarter of a second and 80 MB each."""
        self._encodings = {name: _open(name) for name in sorted(set(tokenizers))}

    def prompt_size(self, messages: Sequence[str]) -> TextSize:
        """Of a conversation: the texts of its messages, with what a chat adds to them."""
        added = TOKENS_PER_MESSAGE * len(messages) + TOKENS_BEFORE_ANSWER
        return self._size(messages, added)

    def answer_size(self, text: str) -> TextSize:
        """Of an answer."""
        return self._size([text], 0)

    def _size(self, texts: Sequence[str], added_count: int) -> TextSize:
        return TextSize(
            sum(map(len, texts)),
            {
                name: added_count + sum(_count(encoding, text) for text in texts)
                for name, encoding in self._encodings.items()
            },
        )


def _open(name: str) -> tiktoken.Encoding:
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(_VOCABULARIES)
    try:
        return tiktoken.get_encoding(name)
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


def _count(encoding: tiktoken.Encoding, text: str) -> int:
    counted = len(encoding.encode_ordinary(text[:COUNTED_CHARACTER_COUNT]))
    if len(text) <= COUNTED_CHARACTER_COUNT:
        return counted
    return -(-counted * len(text) // COUNTED_CHARACTER_COUNT)
