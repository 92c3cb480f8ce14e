"""Tokens as OpenAI counts them."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.token_counter import COUNTED_CHARACTER_COUNT, TokenCounter, openai_tokenizer


@cache
def counter() -> TokenCounter:
    return TokenCounter(["o200k_base"])


def answer_count(text: str) -> int:
    return counter().answer_size(text).token_counts["o200k_base"]


# The counts that OpenAI's cookbook shows for o200k_base.
@pytest.mark.parametrize(
    ("text", "count"),
    [("antidisestablishmentarianism", 6), ("2 + 2 = 4", 7), ("お誕生日おめでとう", 8)],
)
def test_tokens_are_those_that_openai_counts(text: str, count: int) -> None:
    assert answer_count(text) == count


@given(st.text())
def test_any_text_is_counted(text: str) -> None:
    assert (answer_count(text) == 0) is (text == "")
    assert answer_count(text) <= len(text.encode())


def test_what_looks_like_a_special_token_is_text() -> None:
    assert answer_count("<|endoftext|>") > 1


def test_a_prompt_has_what_a_chat_adds() -> None:
    # OpenAI's API reports 9 prompt tokens for one user message "Hello!", which is two of them.
    assert counter().prompt_size(["Hello!"]).token_counts["o200k_base"] == 9
    two = counter().prompt_size(["Hello!", "Hello!"])
    assert (two.character_count, two.token_counts["o200k_base"]) == (12, 15)


def test_a_very_long_text_is_counted_in_proportion() -> None:
    text = "word " * (COUNTED_CHARACTER_COUNT // 5)
    assert answer_count(text * 3) == 3 * answer_count(text)


def test_without_tokenizers_characters_are_counted() -> None:
    size = TokenCounter(()).prompt_size(["four", "five5"])
    assert (size.character_count, size.token_counts) == (9, {})


def test_the_vocabulary_is_there_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "elsewhere")
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr("tiktoken.load.read_file", lambda path: pytest.fail(f"fetched {path}"))
    assert TokenCounter(["o200k_base"]).answer_size("a b").token_counts == {"o200k_base": 2}


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [
        ("gpt-5.2-mini", "o200k_base"),
        ("ft:gpt-4o-2024-08-06:us::1", "o200k_base"),
        ("gpt-4-turbo", None),
        ("claude-haiku-4-5", None),
    ],
)
def test_a_models_tokenizer_is_told_by_its_name(model: str, tokenizer: str | None) -> None:
    assert openai_tokenizer(model) == tokenizer
