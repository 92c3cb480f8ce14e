"""A fitted router: prompt → decision. And its directory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from gateway.routing.fitting import fit
from gateway.routing.gloss import Gloss
from gateway.routing.head import Decision, Floats, Head
from gateway.routing.labelled import Labelled, library_for

# Requests stand at the beginning of a text, or at its end. Not all languages part words.
_FIRST_WORDS, _LAST_WORDS = 160, 60
_FIRST_CHARACTERS, _LAST_CHARACTERS = 3000, 1000


class Embedding(Protocol):
    """Texts → float32[n, dim], rows of length 1."""

    def encode(self, texts: list[str]) -> Floats:
        """See above."""
        ...


class TaskRouter:
    """Tells the task of any text: total and deterministic.

    What is not in English is glossed first, and of a long text its beginning and end are read.
    """

    def __init__(self, head: Head, embedding: Embedding, gloss: Gloss) -> None:
        """embedding: what the head was fitted with. Raises BadRouter where widths differ."""
        self.head = head
        self._embedding = embedding
        self._gloss = gloss
        head.check_width(embedding.encode([""]).shape[1])

    @classmethod
    def fit(
        cls,
        labelled: Sequence[Labelled],
        embedding: Embedding,
        gloss: Gloss,
        *,
        with_library: bool = True,
        expected_out_of_scope: float = 0.15,
    ) -> Self:
        """Learn from labelled prompts, and from the library where tasks have its names.

        Raises BadLabels.
        """
        library = library_for(sorted({one.task for one in labelled})) if with_library else []
        rows, library_rows = (
            embedding.encode([read_text(one.text, gloss) for one in listed])
            for listed in (labelled, library)
        )
        head = fit(
            labelled, rows, library, library_rows, expected_out_of_scope=expected_out_of_scope
        )
        return cls(head, embedding, gloss)

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """float32[n, tasks], in the head's order."""
        rows = self._embedding.encode([read_text(one, self._gloss) for one in texts])
        return self.head.probabilities(rows)

    def decide(self, text: str) -> Decision:
        """What one prompt is for."""
        return self.head.decided(self.probabilities([text])[0])


def read_text(text: str, gloss: Gloss) -> str:
    """What of a text the encoder reads. Halves of surrogate pairs are no text."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) > _FIRST_CHARACTERS + _LAST_CHARACTERS:
        text = f"{text[:_FIRST_CHARACTERS]} ... {text[-_LAST_CHARACTERS:]}"
    text = text.encode("utf-8", "replace").decode()
    words = text.split()
    if len(words) > _FIRST_WORDS + _LAST_WORDS:
        text = " ".join([*words[:_FIRST_WORDS], "...", *words[-_LAST_WORDS:]])
    return gloss.english(text)
