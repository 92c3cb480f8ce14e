"""A fitted router: prompt → decision, by a cascade of two steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from gateway.routing.fitted import ENCODER, Fitted
from gateway.routing.fitting import Known, fit
from gateway.routing.gloss import Gloss
from gateway.routing.head import BadRouter, Decision
from gateway.routing.labelled import OUT_OF_SCOPE, Labelled, library_for
from gateway.routing.quick_step import QuickStep
from gateway.routing.reading import read_text
from gateway.routing.scoring import measured
from gateway.routing.static import StaticVectors
from gateway.routing.words import Floats, Places, Words, hashes_of, shape_of, tokens_of

STATIC, FULL = "static", "full"  # the steps


class FullEncoder(Protocol):
    """Texts → float32[n, dim], rows of length 1."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """See above."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt as both steps see it.

    text: what is read of it. is_plain: nothing in it was glossed. places, weights: as `Words.weigh`
    gives them. shape: as `shape_of` does. logits: float32[tasks], the static step's.
    """

    text: str
    is_plain: bool
    places: Places
    weights: Floats
    shape: Floats
    logits: Floats


class TaskRouter:
    """Tells the task of any text: total and deterministic.

    What is not in English is glossed first, and of a long text its beginning and end are read. The
    static step decides what is clear to it, in microseconds; for the rest a caller gets the text's
    row from the full encoder (`decide` does both).
    """

    def __init__(self, fitted: Fitted, static: StaticVectors, gloss: Gloss) -> None:
        """static: what the static head was fitted with. Raises BadRouter where widths differ."""
        self.fitted = fitted
        self._step = QuickStep(fitted.static, fitted.words, static)
        self._gloss = gloss

    @classmethod
    def fit(
        cls,
        labelled: Sequence[Labelled],
        encoder: FullEncoder,
        static: StaticVectors,
        gloss: Gloss,
        *,
        with_library: bool = True,
        expected_out_of_scope: float = 0.05,
        static_accuracy: float = 0.985,
    ) -> Self:
        """Learn from labelled prompts, and from the library where tasks have its names.

        The rest as `fitting.fit` has it. Raises BadLabels.
        """
        library = library_for(sorted({one.task for one in labelled})) if with_library else []
        texts = [read_text(one.text, gloss)[0] for one in (*labelled, *library)]
        words = Words.fit(texts)
        known = Known(
            encoder.encode(texts),
            static.rows([tokens_of(text) for text in texts]),
            words.matrix(texts),
            np.stack([shape_of(text) for text in texts]),
        )
        fitted = fit(
            labelled,
            library,
            known,
            words,
            expected_out_of_scope=expected_out_of_scope,
            static_accuracy=static_accuracy,
        )
        return cls(fitted, static, gloss)

    def read(self, text: str) -> Reading:
        """The part that both steps need."""
        text, is_plain = read_text(text, self._gloss)
        hashes, shape = hashes_of(text), shape_of(text)
        places, weights = self.fitted.words.weigh(hashes)
        logits = self._step.logits(text, hashes, places, weights, shape)
        return Reading(text, is_plain, places, weights, shape, logits)

    def quick(self, reading: Reading) -> Decision:
        """The static step."""
        return self.fitted.static.decided(reading.logits, STATIC)

    def is_clear(self, reading: Reading, decision: Decision) -> bool:
        """Whether the static step's decision stands. Of glosses it is surer than it should be."""
        fitted = self.fitted
        if not reading.is_plain or decision.probability < fitted.clear:
            return False
        return decision.is_in_scope or fitted.knows_beyond

    def thorough(self, reading: Reading, row: Floats) -> Decision:
        """The full step. row: float32[dim], the full encoder's, of the reading's text."""
        head = self.fitted.full
        logits = head.logits(row, reading.places, reading.weights, reading.shape)
        return head.decided(logits, FULL)

    def decide(self, text: str, encoder: FullEncoder) -> Decision:
        """Both steps, the second where it is needed."""
        reading = self.read(text)
        found = self.quick(reading)
        if self.is_clear(reading, found):
            return found
        return self.thorough(reading, encoder.encode([reading.text])[0])

    def decide_all(self, texts: Sequence[str], encoder: FullEncoder) -> list[Decision]:
        """The same of many, what is not clear in batches."""
        readings = [self.read(text) for text in texts]
        found = [self.quick(reading) for reading in readings]
        unclear = [
            place
            for place, (reading, one) in enumerate(zip(readings, found, strict=True))
            if not self.is_clear(reading, one)
        ]
        rows = encoder.encode([readings[place].text for place in unclear])
        for place, row in zip(unclear, rows, strict=True):
            found[place] = self.thorough(readings[place], row)
        return found

    def measure(self, decisions: Sequence[Decision], truth: Sequence[str]) -> dict[str, Any]:
        """As `scoring.measured`; tasks that the router does not know are out of scope."""
        tasks = self.fitted.tasks
        place = tasks.index(OUT_OF_SCOPE)
        probabilities: Floats = np.stack([one.probabilities for one in decisions])
        chosen = np.array([tasks.index(one.task) for one in decisions])
        wanted = np.array([tasks.index(one) if one in tasks else place for one in truth])
        found = measured(place, probabilities, chosen, wanted)
        is_static = [one.decided_by == STATIC for one in decisions]
        return found | {"static_share": float(np.mean(is_static))}


def encoder_of(directory: Path) -> Path:
    """Where a router's encoder is. Raises BadRouter."""
    found = directory / ENCODER
    if not found.is_dir():
        raise BadRouter(f"{directory}: its encoder is missing")
    return found


def static_of(encoder: Path) -> StaticVectors:
    """The static embedding that was distilled from an encoder. Raises BadRouter."""
    return StaticVectors.load(encoder / "static")
