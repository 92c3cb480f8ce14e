"""Text from tokens: whole characters, the same text however it is cut, no stop text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from engine.tiny_models import train_tokenizer

from model_pool.text_stream import Detokenizer, StopSearch, TextStream

TEXT = "naïve 東京 🙂🚀 привет\n  indented, café"
STOPS = (("ab",), ("aba", "bb"), ("abcd", "c"), ("aaab",), ("", "ba"))


def cut_into_parts(text: str, numbers: random.Random) -> list[str]:
    cuts = sorted(numbers.sample(range(len(text) + 1), numbers.randrange(len(text) + 1)))
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def searched(parts: Sequence[str], stops: Sequence[str]) -> str:
    search, out = StopSearch(stops), ""
    for part in parts:
        out += search.add(part)
        if search.is_stopped:
            return out
    return out + search.finish()


def cut_by_reading_letter_by_letter(text: str, stops: Sequence[str]) -> str:
    """The plain definition: read until one stop text is complete, then drop it."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))]
    return text


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def test_pieces_join_to_the_decoding_of_all_tokens(tokenizer) -> None:
    def decode(token_ids: Sequence[int]) -> str:
        return tokenizer.decode(token_ids, skip_special_tokens=True)

    numbers = random.Random(3)
    texts = [tokenizer.encode(TEXT)]
    texts += [[numbers.randrange(360) for _ in range(numbers.randrange(90))] for _ in range(300)]
    for token_ids in texts:
        detokenizer = Detokenizer(decode)
        pieces = [detokenizer.add(token_id) for token_id in token_ids]
        assert "".join(pieces) + detokenizer.finish() == decode(token_ids)


def test_no_piece_holds_half_a_character(tokenizer) -> None:
    detokenizer = Detokenizer(lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("🙂é")
    byte_tokens = tokenizer.convert_tokens_to_ids([byte for part, _ in split for byte in part])
    assert len(byte_tokens) == 6
    pieces = [detokenizer.add(token_id) for token_id in byte_tokens]

    assert [piece for piece in pieces if piece] == ["🙂", "é"]


@pytest.mark.parametrize("stops", STOPS)
def test_a_stop_text_cuts_the_same_place_however_the_text_is_divided(stops) -> None:
    numbers = random.Random(5)
    for _ in range(400):
        text = "".join(numbers.choices("abcd", k=numbers.randrange(1, 12)))
        parts = cut_into_parts(text, numbers)
        assert searched(parts, stops) == cut_by_reading_letter_by_letter(text, stops)


def test_what_may_begin_a_stop_text_is_held_back() -> None:
    search = StopSearch(("END",))

    assert search.add("tale E") == "tale "
    assert search.add("N") == ""
    assert search.add("VY") == "ENVY"
    assert not search.is_stopped


def test_a_stop_text_completed_by_the_last_held_bytes_still_cuts() -> None:
    stream = TextStream(lambda ids: "".join("x\ufffd"[i] for i in ids), ("\ufffd",))

    assert stream.add(0) == "x"
    assert stream.add(1) == ""
    assert stream.finish() == ""
    assert stream.is_stopped
