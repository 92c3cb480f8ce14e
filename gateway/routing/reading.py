"""What of a prompt is read."""

from __future__ import annotations

import string
import unicodedata

from gateway.routing.gloss import ENGLISH, Gloss

# Requests stand at the beginning of a text, or at its end. Not all languages part words.
_FIRST_WORDS, _LAST_WORDS = 160, 60
_FIRST_CHARACTERS, _LAST_CHARACTERS = 3000, 1000
_ENDING = string.whitespace + ".!"


def read_text(text: str, gloss: Gloss) -> tuple[str, bool]:
    """A text's beginning and end, in English words, its blanks and its last full stop left out.

    Returns it, and whether it was in English. Total: halves of surrogate pairs, which are no text,
    become question marks.
    """
    if len(text) > _FIRST_CHARACTERS + _LAST_CHARACTERS:
        text = f"{text[:_FIRST_CHARACTERS]} ... {text[-_LAST_CHARACTERS:]}"
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    text = text.rstrip(_ENDING).lstrip()
    if text.count(" ") + text.count("\n") >= _FIRST_WORDS + _LAST_WORDS:
        words = text.split()
        if len(words) > _FIRST_WORDS + _LAST_WORDS:
            text = " ".join([*words[:_FIRST_WORDS], "...", *words[-_LAST_WORDS:]])
    language = gloss.language(text)
    return gloss.english(text, language), language == ENGLISH
