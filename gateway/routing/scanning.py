"""One text's bytes, counted in one pass or two. Compiled by numba; importing this imports numba.

Texts are uint8 arrays of UTF-8. What is counted is ASCII's: other letters count as letters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_on_load.kernels import compiled

OTHER, SPACE, NEWLINE, DIGIT, UPPER, LOWER, FOREIGN = range(7)
SYMBOL, QUESTION, COMMA, QUOTE, APOSTROPHE, BRACKET, UNDERSCORE, STOP = range(7, 15)
KIND_COUNT = 15
SHAPE_COUNT = 14

_FNV_START = np.uint64(1469598103934665603)  # of the 64-bit FNV-1a hash, as is the prime
_FNV_PRIME = np.uint64(1099511628211)
_SHIFT = np.uint64(29)
_PAIR = np.uint64(31)


def _kinds() -> Any:
    found = np.full(256, OTHER, np.uint8)
    found[128:] = FOREIGN
    listed = {
        SPACE: " \t\r\v\f",
        NEWLINE: "\n",
        DIGIT: "0123456789",
        UPPER: "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        LOWER: "abcdefghijklmnopqrstuvwxyz",
        SYMBOL: "+-*/=^<>\\$%|~",
        QUESTION: "?",
        COMMA: ",",
        QUOTE: '"',
        APOSTROPHE: "'",
        BRACKET: "()[]{}",
        UNDERSCORE: "_",
        STOP: ".!",
    }
    for kind, characters in listed.items():
        found[list(characters.encode())] = kind
    return found


def _word_kinds() -> Any:
    found = KINDS.copy()
    found[list(range(28, 32))] = SPACE
    found[ord("_")] = LOWER
    return found


def _letter_kinds() -> Any:
    found = KINDS.copy()
    found[(KINDS == DIGIT) | (KINDS == UNDERSCORE)] = SPACE
    return found


KINDS = _kinds()  # of each byte
WORD_KINDS = _word_kinds()  # as a regular expression's word and blank characters
LETTER_KINDS = _letter_kinds()  # words are of letters alone


def _count_kinds(text: Any, kinds: Any, counts: Any) -> None:
    """counts: int64[KIND_COUNT], added to."""
    for byte in text:
        counts[kinds[byte]] += 1


def _measure_runs(text: Any, kinds: Any, found: Any) -> None:
    """found: float64[8]: words, longest word, sentences' ends, longest line, doubled underscores,
    doubled spaces, words that begin with a capital, paragraphs' ends. Starts from zeros.
    """
    word = line = 0
    before = NEWLINE
    for byte in text:
        kind = kinds[byte]
        if kind in (SPACE, NEWLINE):
            found[2] += before in (STOP, QUESTION)
            word = 0
        else:
            found[0] += word == 0
            found[6] += word == 0 and kind == UPPER
            word += 1
            found[1] = max(found[1], word)
        line = 0 if kind == NEWLINE else line + 1
        found[3] = max(found[3], line)
        found[4] += kind == UNDERSCORE and before == UNDERSCORE
        found[5] += kind == SPACE and before == SPACE
        found[7] += kind == NEWLINE and before == NEWLINE
        before = kind
    found[2] += before in (STOP, QUESTION)


def _measure_numbers(text: Any, kinds: Any, found: Any) -> None:
    """found: float64[5]: numbers, the greatest, the least, how many have a point, and how many have
    three digits or more. Starts from zeros; commas between digits part nothing.
    """
    count = len(text)
    i = 0
    while i < count:
        if kinds[text[i]] != DIGIT:
            i += 1
            continue
        value, scale, digits, has_point = 0.0, 1.0, 0, False
        while i < count:
            if kinds[text[i]] == DIGIT:
                value = min(value * 10 + (text[i] - 48), 1e18)
                scale = scale * 10 if has_point else scale
                digits += 1
            elif (text[i] == 46 and not has_point) or text[i] == 44:  # a point, a comma
                if i + 1 >= count or kinds[text[i + 1]] != DIGIT:
                    break
                has_point = has_point or text[i] == 46
            else:
                break
            i += 1
        value /= scale
        found[2] = value if found[0] == 0 else min(found[2], value)
        found[1] = max(found[1], value)
        found[0] += 1
        found[3] += has_point
        found[4] += digits >= 3


def _measure_options(text: Any, kinds: Any, found: Any) -> None:
    """found: float64[4]: options, lines that begin as `A.`, `B)` or `(C)` do; the sum of their
    lengths and of their lengths' squares; how many have a digit. Starts from zeros.
    """
    count = len(text)
    start = 0
    while start < count:
        end = start
        has_digit = False
        while end < count and kinds[text[end]] != NEWLINE:
            has_digit = has_digit or kinds[text[end]] == DIGIT
            end += 1
        i = start
        while i < end and kinds[text[i]] == SPACE:
            i += 1
        i += i < end and text[i] == 40  # an opening bracket
        is_letter = i + 1 < end and 65 <= text[i] <= 74  # A to J
        if is_letter and text[i + 1] in (41, 46, 58):  # ) . :
            length = end - i - 2
            found[0] += 1
            found[1] += length
            found[2] += length * length
            found[3] += has_digit
        start = end + 1


def _hash_words(text: Any, kinds: Any, out: Any) -> Any:
    """Hash words, in small letters, and each sign between them. out: uint64, as long as text.

    Returns how many there are. The last bit is 1 for a word, and 0 for a sign.
    """
    found = 0
    i = 0
    while i < len(text):
        kind = kinds[text[i]]
        hashed = _FNV_START
        if kind in (SPACE, NEWLINE):
            i += 1
            continue
        is_word = kind in (DIGIT, UPPER, LOWER, FOREIGN)
        while i < len(text):
            kind = kinds[text[i]]
            byte = text[i] + 32 if kind == UPPER else text[i]
            hashed = (hashed ^ np.uint64(byte)) * _FNV_PRIME
            i += 1
            if not is_word or i == len(text):
                break
            if kinds[text[i]] not in (DIGIT, UPPER, LOWER, FOREIGN):
                break
        hashed = hashed ^ (hashed >> _SHIFT)
        out[found] = (hashed << np.uint64(1)) | np.uint64(is_word)
        found += 1
    return found


def _measure_shape(text: Any, kinds: Any, found: Any) -> None:
    """found: float32[SHAPE_COUNT]: length, words, numbers, digits, capitals, signs, lines, question
    marks, a line that ends as code does, a question mark at the end, a small letter at the
    beginning, quotes, the first person, letters beyond ASCII; each about 0 to 1.
    """
    characters = words = numbers = digits = capitals = signs = lines = questions = foreign = 0
    is_code = has_quote = is_first_person = starts_small = ends_asking = False
    ends_as_code = False  # but for blanks
    word = np.uint64(0)  # the last letters of a word, in small ones
    length = 0  # of the word
    before = SPACE
    for i in range(len(text) + 1):
        byte = text[i] if i < len(text) else np.uint8(10)
        kind = kinds[byte]
        if kind in (UPPER, LOWER, DIGIT, FOREIGN):
            word = (word << np.uint64(8)) | np.uint64(byte + 32 if kind == UPPER else byte)
            length += 1
        elif length:
            is_first_person |= length == 1 and word == 105  # i
            is_first_person |= length == 2 and (word == 28025 or word == 28005)  # my, me
            word = np.uint64(0)
            length = 0
        if kind == NEWLINE:
            is_code |= ends_as_code
            ends_as_code = False
        if i == len(text):
            break
        characters += int((byte & 0xC0) != 0x80)
        foreign += int(byte >= 0xC0)
        lines += kind == NEWLINE
        if kind not in (SPACE, NEWLINE):
            starts_small |= words == 0 and before in (SPACE, NEWLINE) and kind == LOWER
            words += before in (SPACE, NEWLINE)
            ends_as_code = (kind == BRACKET and byte not in (91, 93)) or byte == 59
            ends_asking = kind == QUESTION
        numbers += kind == DIGIT and before != DIGIT
        digits += kind == DIGIT
        capitals += kind == UPPER
        signs += kind == SYMBOL
        questions += kind == QUESTION
        has_quote |= kind == QUOTE
        before = kind
    count = characters + 1
    found[0] = np.log1p(characters) / 8
    found[1] = np.log1p(words) / 6
    found[2] = np.log1p(numbers) / 3
    found[3] = digits / count * 5
    found[4] = capitals / count * 5
    found[5] = min(signs, 10) / 10
    found[6] = np.log1p(lines) / 3
    found[7] = min(questions, 3) / 3
    found[8] = is_code
    found[9] = ends_asking
    found[10] = starts_small
    found[11] = has_quote
    found[12] = is_first_person
    found[13] = foreign / count * 3


def _count_keywords(words: Any, keywords: Any, groups: Any, counts: Any) -> None:
    """counts: float64[groups], added to. groups: the place in counts of each of the keywords."""
    for word in words:
        for i in range(len(keywords)):
            if word == keywords[i]:
                counts[groups[i]] += 1


def _bag_words(words: Any, counts: Any, out: Any) -> Any:
    """Buckets of words and of pairs of neighbours. counts: int32[buckets], zeros, a power of two of
    them; added to. out: int64[2 * words]. Returns how many of the buckets differ.
    """
    mask = np.uint64(len(counts) - 1)
    found = 0
    before = np.uint64(0)
    for word in words:
        pair = (before * _PAIR) ^ (word >> np.uint64(1))
        for hashed in (word >> np.uint64(1), pair * _FNV_PRIME):
            bucket = np.int64((hashed ^ (hashed >> _SHIFT)) & mask)
            if counts[bucket] == 0:
                out[found] = bucket
                found += 1
            counts[bucket] += 1
        before = word
    return found


def _bag_letters(text: Any, kinds: Any, counts: Any, out: Any) -> Any:
    """Buckets of two to four neighbouring bytes, in small letters. counts: as of words. out:
    int64[3 * bytes]. Returns how many of the buckets differ.
    """
    mask = np.uint64(len(counts) - 1)
    found = 0
    for i in range(len(text)):
        hashed = _FNV_START
        for j in range(i, min(len(text), i + 4)):
            byte = text[j] + 32 if kinds[text[j]] == UPPER else text[j]
            hashed = (hashed ^ np.uint64(byte)) * _FNV_PRIME
            if j == i:
                continue
            bucket = np.int64((hashed ^ (hashed >> _SHIFT)) & mask)
            if counts[bucket] == 0:
                out[found] = bucket
                found += 1
            counts[bucket] += 1
    return found


def _project(buckets: Any, values: Any, weights: Any, directions: Any, out: Any) -> None:
    """out: float32[dim], zeros: the sum of values by directions, divided by the length of values by
    weights; stays zeros where that is zero.
    """
    squares = 0.0
    for i in range(len(buckets)):
        weighed = values[i] * weights[buckets[i]]
        if weighed != 0:
            squares += weighed * weighed
            for j in range(len(out)):
                out[j] += values[i] * directions[buckets[i], j]
    if squares > 0:
        scale = np.float32(1 / np.sqrt(squares))
        for j in range(len(out)):
            out[j] *= scale


count_kinds = compiled(_count_kinds)
measure_runs = compiled(_measure_runs)
measure_numbers = compiled(_measure_numbers)
measure_options = compiled(_measure_options)
hash_words = compiled(_hash_words)
measure_shape = compiled(_measure_shape)
count_keywords = compiled(_count_keywords)
bag_words = compiled(_bag_words)
bag_letters = compiled(_bag_letters)
project = compiled(_project)
