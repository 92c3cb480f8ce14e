"""A router that is ready to decide: from its directory, or from a fleet's examples."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gateway.routing.encoder_files import kept
from gateway.routing.fitted import Fitted
from gateway.routing.gloss import Gloss
from gateway.routing.labelled import OUT_OF_SCOPE, Labelled, library_of
from gateway.routing.onnx_encoder import OnnxEncoder
from gateway.routing.task_router import TaskRouter, encoder_of, static_of


@dataclass(frozen=True, slots=True)
class Opened:
    """A router, and the directory of the full encoder that it was fitted with."""

    router: TaskRouter
    encoder: Path


def open_fitted(directory: Path, fitted: Fitted | None = None) -> Opened:
    """What `deltafleet router fit` wrote. fitted: already loaded from it. Raises BadRouter."""
    encoder = encoder_of(directory)
    router = TaskRouter(fitted or Fitted.load(directory), static_of(encoder), Gloss())
    return Opened(router, encoder)


def fit_examples_apart(examples: Mapping[str, Sequence[str]], encoder: str | None) -> Opened:
    """As fit_examples, in a process of its own: what learning takes, some 200 MB, ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        fitted = apart.submit(_fit, dict(examples), encoder).result()
    place = kept(encoder)
    return Opened(TaskRouter(fitted, static_of(place), Gloss()), place)


def _fit(examples: Mapping[str, Sequence[str]], encoder: str | None) -> Fitted:
    return fit_examples(examples, encoder).router.fitted


def fit_examples(examples: Mapping[str, Sequence[str]], encoder: str | None) -> Opened:
    """Learn from each task's examples, at least one each, in seconds.

    With one task alone, what it is not for is learned from the library. encoder: as
    `encoder_files.kept` has it. Raises BadRouter, BadLabels.
    """
    labelled = [
        Labelled(text, task)
        for task, texts in examples.items()
        for text in (texts if len(texts) > 1 else (*texts, *texts))  # folds need two
    ]
    if len(examples) == 1:
        labelled += library_of(OUT_OF_SCOPE)
    place = kept(encoder)
    router = TaskRouter.fit(
        labelled, OnnxEncoder(place), static_of(place), Gloss(), with_library=False
    )
    return Opened(router, place)
