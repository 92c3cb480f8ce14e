"""What is told of a prompt by its form: lengths, numbers, options, usual words. Pure and total."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from gateway.routing import scanning

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

_FIRST_BYTES, _LAST_BYTES = 3000, 1000
_KEYWORDS = {
    "negations": "not no except never neither cannot incorrect false least",
    "question_words": "what who whom whose when where which why how",
    "ratios": "each every per times twice half double triple third quarter percent fraction ratio",
    "sums": "more less fewer than remaining left total altogether combined difference spend spent",
    "conditions": "if then after before until unless while when suppose assume given let",
    "proofs": "prove show find compute evaluate solve determine calculate integer polynomial real",
    "code": "function write python def return list string array class import program",
    "persons": "he she his her him they their i my you your",
    "times": "day days week weeks month months year years hour hours minute minutes",
    "claims": "statement statements following correct true best most likely",
}
NAMES = (
    *("bytes", "words", "word_length", "longest_word", "capitals", "sentences", "sentence_length"),
    *("lines", "longest_line", "paragraphs", "blanks", "doubled_spaces"),
    *("digits", "uppers", "foreign", "symbols", "questions", "commas", "quotes", "apostrophes"),
    *("brackets", "underscores"),
    *("numbers", "greatest_number", "least_number", "number_span", "fractions", "long_numbers"),
    *("options", "option_length", "option_spread", "option_digits"),
    *("starts_upper", "starts_lower", "starts_word", "ends_question", "ends_stop", "ends_colon"),
    *_KEYWORDS,
)


def read_bytes(text: str) -> Bytes:
    """UTF-8 of a text's beginning and end. Halves of surrogate pairs become question marks."""
    if len(text) > _FIRST_BYTES + _LAST_BYTES:
        text = f"{text[:_FIRST_BYTES]} {text[-_LAST_BYTES:]}"
    found = text.encode("utf-8", "replace")
    if len(found) > _FIRST_BYTES + _LAST_BYTES:
        found = found[:_FIRST_BYTES] + b" " + found[-_LAST_BYTES:]
    return np.frombuffer(found, np.uint8)


def word_hashes(data: Bytes) -> NDArray[np.uint64]:
    """One for each word and sign, in their order."""
    out = np.empty(len(data), np.uint64)
    return out[: scanning.hash_words(data, scanning.KINDS, out)]


@cache
def _keywords() -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all keywords, and the group of each."""
    hashed = [word_hashes(read_bytes(words)) for words in _KEYWORDS.values()]
    return np.concatenate(hashed), np.repeat(np.arange(len(hashed)), [len(h) for h in hashed])


def form(text: str) -> Floats:
    """float64[NAMES], all finite. Counts are logarithms of one more, or shares."""
    data = read_bytes(text)
    kinds = np.zeros(scanning.KIND_COUNT, np.int64)
    runs, numbers, options = np.zeros(8), np.zeros(5), np.zeros(4)
    keywords = np.zeros(len(_KEYWORDS))
    scanning.count_kinds(data, scanning.KINDS, kinds)
    scanning.measure_runs(data, scanning.KINDS, runs)
    scanning.measure_numbers(data, scanning.KINDS, numbers)
    scanning.measure_options(data, scanning.KINDS, options)
    scanning.count_keywords(word_hashes(data), *_keywords(), keywords)
    return np.concatenate(
        [
            _of_runs(len(text), len(data), kinds, runs),
            _of_kinds(len(data), kinds),
            _of_numbers(numbers),
            _of_options(options),
            _of_ends(data),
            np.log1p(keywords),
        ]
    )


def _of_runs(length: int, count: int, kinds: NDArray[np.int64], runs: Floats) -> Floats:
    words, longest_word, sentences, longest_line, blanks, spaces, capitals, paragraphs = runs
    letters = count - kinds[scanning.SPACE] - kinds[scanning.NEWLINE]
    counted = [length, words, letters / max(1, words), longest_word, capitals, sentences]
    counted += [words / (1 + sentences), kinds[scanning.NEWLINE], longest_line, paragraphs]
    return np.log1p(np.array([*counted, blanks, spaces], np.float64))


def _of_kinds(count: int, kinds: NDArray[np.int64]) -> Floats:
    shares = kinds[[scanning.DIGIT, scanning.UPPER, scanning.FOREIGN]] / (1 + count)
    signs = [scanning.SYMBOL, scanning.QUESTION, scanning.COMMA, scanning.QUOTE]
    signs += [scanning.APOSTROPHE, scanning.BRACKET, scanning.UNDERSCORE]
    return np.concatenate([shares, np.log1p(kinds[signs])])


def _of_numbers(numbers: Floats) -> Floats:
    count, greatest, least, fractions, long = np.log1p(numbers)
    return np.array([count, greatest, least, greatest - least, fractions, long])


def _of_options(options: Floats) -> Floats:
    """Lengths: -1 where there are no options."""
    count, lengths, squares, digits = options
    if not count:
        return np.array([0.0, -1.0, -1.0, -1.0])
    mean = lengths / count
    spread = np.sqrt(max(0.0, squares / count - mean * mean)) / (1 + mean)
    return np.array([count, np.log1p(mean), spread, digits / count])


def _of_ends(data: Bytes) -> Floats:
    told = data.tobytes().strip()
    first, last = told[:1], told[-1:]
    starts = [first.isupper(), first.islower(), first.isalpha()]
    return np.array([*starts, last == b"?", last in (b".", b"!"), last == b":"], np.float64)
