"""Prompts in other languages → English words, for encoders that know English alone.

A gloss is no translation: words that the lists have become English ones in their old order, all
others, names and numbers and code, stay. That is enough to tell what a prompt asks for. The lists,
`gloss/LANGUAGE.tsv`, were written for this project: `meaning<TAB>form|form|...`, where a star ends
a stem that many endings follow and a parenthesis in a meaning says which of them it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.routing import lookup, scanning
from gateway.routing.words import hashes_of_words

ENGLISH = "en"

_LISTS = Path(__file__).parent / "gloss"
_UNSPACED = frozenset({"ja", "zh"})
_MARKED = "vi"  # diacritics tell its words apart
_STEMS_ONLY = frozenset({"ko"})  # particles follow every word
_LEAST_STEM = 4
_LONGEST_LOOK = 96  # words at which a language is told

# Characters that one language of the lists uses, and the least share of a text's letters that they
# are. Han is Chinese unless there are kana.
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]"), 0.15),
    ("ko", re.compile("[\uac00-\ud7af]"), 0.3),
    ("zh", re.compile("[\u3400-\u9fff]"), 0.3),
    ("ru", re.compile("[\u0400-\u04ff]"), 0.3),
    ("ar", re.compile("[\u0600-\u06ff]"), 0.3),
    ("hi", re.compile("[\u0900-\u097f]"), 0.3),
    ("vi", re.compile("[\u1ea0-\u1ef9ơưđ]"), 0.05),
)
_INSTRUCTED = 3  # so many English function words: whatever else is in a text is quoted
_LETTER = "(?:[^\\W\\d_]|[\u0300-\u036f\u064b-\u0652\u0900-\u0963])"
_WORD = re.compile(f"{_LETTER}+")
_JOINERS = frozenset("'\u2019-")  # part words that a form may have in one
_PIECE = re.compile(rf"\d+(?:[.,]\d+)*(?!\w)|(?:\w|{_LETTER})+|[^\w\s]")
_MEANING = re.compile(r"\s*\([^)]*\)")
_ARABIC_PREFIXES = ("وال", "بال", "كال", "فال", "لل", "ال", "و", "ف", "ب", "ل", "ك")

# Words that say little about what is asked and much about the language.
_FUNCTION = frozenset(
    re.findall(
        r"\w+",
        """
        the a an this that these those my your his her our their i you he she we they it is are was
        were be been have has had do does did will would can could should must may and or but
        because if then than as like about from to in on at for of by with without not what which
        who where when why how there each every all some any me him us them its into also
        """,
    )
)


@dataclass(slots=True)
class _List:
    """One language: normalised forms → English."""

    words: dict[str, str] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)
    phrases: dict[str, list[tuple[tuple[str, ...], str]]] = field(default_factory=dict)
    telling: dict[str, float] = field(default_factory=dict)  # what tells the language, and how much
    longest: int = 1  # form, in characters


class Gloss:
    """All languages' lists, read once."""

    def __init__(self, lists: Path = _LISTS) -> None:
        """lists: directory of `LANGUAGE.tsv`. Raises OSError, ValueError naming file and line."""
        english = set(_FUNCTION)
        read = {path.stem: list(_lines(path)) for path in sorted(lists.glob("*.tsv"))}
        for lines in read.values():
            for meaning, _ in lines:
                english.update(meaning.lower().split())
        self._english = english
        self._lists = {
            language: _made(language, lines, english) for language, lines in read.items()
        }
        scripted = {name for name, *_ in _SCRIPTS}
        self._latin = [one for one in self._lists if one not in scripted]
        self._telling: dict[str, dict[str, float]] = {}  # word → how much it tells each language
        for language in self._latin:
            for word, score in self._lists[language].telling.items():
                self._telling.setdefault(word, {})[language] = score
        self._index()

    def _index(self) -> None:
        """What tells the language of ASCII, by the words' hashes."""
        listed = {*self._english, *_FUNCTION, *self._telling}
        words = sorted(word for word in listed if word.isascii() and word.isalpha())
        self._table = lookup.Table()
        self._table.add(hashes_of_words(words))
        self._english_scores = np.array([self._english_score(word) for word in words], np.float32)
        self._telling_scores = np.array(
            [[self._telling.get(word, {}).get(one, 0) for one in self._latin] for word in words],
            np.float32,
        ).reshape(len(words), len(self._latin))

    def _english_score(self, word: str) -> float:
        return 1.0 if word in _FUNCTION else 0.5 * (word in self._english)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that there are lists for (ISO 639-1)."""
        return tuple(self._lists)

    def language(self, text: str) -> str:
        """The language that most of a text is in, "en" where that is English or not known."""
        if text.isascii():
            return self._ascii_language(text)
        words = [_plain(word) for word in _WORD.findall(text)[:_LONGEST_LOOK]]
        letters = sum(map(len, words))
        for language, script, share in _SCRIPTS:
            count = len(script.findall(text[: 8 * _LONGEST_LOOK]))
            if count and count >= share * letters and language in self._lists:
                is_instructed = sum(map(_FUNCTION.__contains__, words)) >= _INSTRUCTED
                return ENGLISH if is_instructed else language
        scores = dict.fromkeys(self._latin, 0.0)
        for one in filter(self._telling.__contains__, words):
            for language, score in self._telling[one].items():
                scores[language] += score
        english = sum(map(self._english_score, words))
        return self._best(english, list(scores.values()), len(words))

    def _ascii_language(self, text: str) -> str:
        data = np.frombuffer(text.encode(), np.uint8)
        hashes = np.empty(len(data), np.uint64)
        hashes = hashes[: scanning.hash_words(data, scanning.LETTER_KINDS, hashes)]
        scores = np.zeros(1 + len(self._latin), np.float32)
        count = lookup.score_languages(
            *(hashes, _LONGEST_LOOK, self._table.keys, self._table.places),
            *(self._english_scores, self._telling_scores, scores),
        )
        english, *others = scores.tolist()
        return self._best(english, others, count)

    def _best(self, english: float, scores: Sequence[float], word_count: int) -> str:
        """scores: of the languages in Latin letters."""
        best, best_score = ENGLISH, max(english, 1.0, 0.15 * word_count)
        for language, score in zip(self._latin, scores, strict=True):
            if score > best_score:
                best, best_score = language, score
        return best

    def english(self, text: str, language: str | None = None) -> str:
        """The text, glossed where it is not in English. language: None: the one that it is in."""
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        language = self.language(text) if language is None else language
        if language == ENGLISH or language not in self._lists:
            return text
        found = self._lists[language]
        pieces = _unspaced(text, found) if language in _UNSPACED else _spaced(text, found, language)
        return " ".join(pieces)


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        meaning, tab, forms = line.partition("\t")
        if not tab or not meaning.strip():
            raise ValueError(f"{path}, line {number}: a meaning, a tab, and forms")
        listed = [form.strip() for form in forms.split("|")]
        yield _MEANING.sub("", meaning).strip(), [form for form in listed if form]


def _made(language: str, lines: list[tuple[str, list[str]]], english: set[str]) -> _List:
    found = _List()
    for meaning, forms in lines:
        for form in forms:
            is_stem = form.endswith("*") or language in _STEMS_ONLY
            plain = _plain(form.rstrip("*"), language)
            parts = tuple(_WORD.findall(plain)) if language not in _UNSPACED else ()
            if language in _UNSPACED:
                found.words.setdefault(plain, meaning)
                found.longest = max(found.longest, len(plain))
            elif len(parts) > 1:
                found.phrases.setdefault(parts[0], []).append((parts, meaning))
            elif not parts:
                continue
            elif is_stem and (len(plain) >= _LEAST_STEM or language in _STEMS_ONLY):
                found.stems.setdefault(plain, meaning)
                found.longest = max(found.longest, len(plain))
            else:
                found.words.setdefault(plain, meaning)
            if len(parts) == 1 and plain not in english:
                tells = 1.0 if meaning.lower() in _FUNCTION else 0.5
                found.telling[plain] = max(tells, found.telling.get(plain, 0.0))
    for listed in found.phrases.values():
        listed.sort(key=lambda one: -len(one[0]))
    return found


def _plain(text: str, language: str = "") -> str:
    """Lower case without diacritics: many write so. Vietnamese words are kept apart by them."""
    lowered = text.lower()
    if lowered.isascii() or language == _MARKED:
        return unicodedata.normalize("NFC", lowered)
    apart = unicodedata.normalize("NFKD", lowered.replace("\u0131", "i"))
    return unicodedata.normalize("NFC", "".join(c for c in apart if not _is_mark(c)))


def _is_mark(character: str) -> bool:
    """Of Latin, Cyrillic and Arabic letters; in Devanagari and kana marks are letters."""
    return "\u0300" <= character <= "\u036f" or "\u064b" <= character <= "\u0652"


def _spaced(text: str, found: _List, language: str) -> Iterator[str]:
    pieces = [one for one in _PIECE.findall(text) if one not in _JOINERS]
    plain = [_plain(one, language) for one in pieces]
    at = 0
    while at < len(pieces):
        phrase = _phrase(plain, at, found.phrases)
        if phrase:
            count, meaning = phrase
            yield meaning
            at += count
            continue
        yield _word(plain[at], found, language) or pieces[at]
        at += 1


def _phrase(
    plain: list[str], at: int, phrases: Mapping[str, list[tuple[tuple[str, ...], str]]]
) -> tuple[int, str] | None:
    for parts, meaning in phrases.get(plain[at], ()):
        if tuple(plain[at : at + len(parts)]) == parts:
            return len(parts), meaning
    return None


def _word(plain: str, found: _List, language: str) -> str | None:
    meaning = found.words.get(plain) or _by_stem(plain, found)
    if meaning is None and language == "ar":
        for prefix in _ARABIC_PREFIXES:
            rest = plain.removeprefix(prefix)
            if rest != plain and len(rest) > 1:
                meaning = found.words.get(rest) or _by_stem(rest, found)
                if meaning:
                    break
    return meaning


def _by_stem(plain: str, found: _List) -> str | None:
    """The longest stem that the word begins with."""
    for end in range(min(len(plain), found.longest), 0, -1):
        if meaning := found.stems.get(plain[:end]):
            return meaning
    return None


def _unspaced(text: str, found: _List) -> Iterator[str]:
    """The longest form at each place; what is between forms stays together."""
    lowered, at, rest = text.lower(), 0, 0
    while at < len(lowered):
        for end in range(min(len(lowered), at + found.longest), at, -1):
            meaning = found.words.get(lowered[at:end])
            if meaning:
                if rest < at:
                    yield text[rest:at].strip()
                yield meaning
                at = rest = end
                break
        else:
            at += 1
    if rest < len(text):
        yield text[rest:].strip()
