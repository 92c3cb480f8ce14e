"""The cascade: clear prompts by the static step, others by the encoder, and what if that fails."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.classifier import Cascade
from gateway.encoder import BatchedEncoder
from gateway.routing.encoder_files import kept
from gateway.routing.onnx_encoder import OnnxEncoder
from gateway.routing.opening import fit_examples
from gateway.routing.task_router import TaskRouter
from gateway.routing.words import Floats

COLOURS = ["red", "green", "blue", "yellow", "violet", "orange", "brown", "white", "black", "pink"]
EXAMPLES = {
    "paint": [
        text.format(one)
        for one in COLOURS
        for text in (
            "What should I mix to get {} paint for a wall?",
            "Which brush for {} paint?",
            "Does {} paint hide a dark wall?",
            "The {} wall wants a second coat.",
        )
    ],
    "bake": [
        text.format(one)
        for one in COLOURS
        for text in (
            "How long must a cake with {} icing stay in the oven?",
            "Bake a {} cake.",
            "Does the {} dough need yeast?",
            "My {} bread did not rise.",
        )
    ],
}
CLEAR, UNCLEAR = EXAMPLES["paint"][0], "Wie lange muss der Kuchen in den Ofen?"
PATIENT_S = 60.0


@pytest.fixture(scope="module")
def files() -> Path:
    return kept(None)


@pytest.fixture(scope="module")
def router() -> TaskRouter:
    return fit_examples(EXAMPLES, None).router


class Watched(OnnxEncoder):
    """Remembers its batches, and can be made to fail or to wait."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.batches: list[int] = []
        self.before: Callable[[], object] = lambda: None

    def run(self, listed: Sequence[list[int]]) -> Floats:
        self.batches.append(len(listed))
        self.before()
        return super().run(listed)


@asynccontextmanager
async def cascade(
    router: TaskRouter,
    files: Path,
    *,
    budget_s: float = PATIENT_S,
    cache_count: int = 100,
    wants_rows: bool = False,
) -> AsyncIterator[tuple[Cascade, Watched]]:
    inner = Watched(files)
    encoder = BatchedEncoder(lambda: inner, cache_count=cache_count)
    await encoder.start()
    try:
        yield Cascade(router, encoder, budget_s=budget_s, wants_rows=wants_rows), inner
    finally:
        await encoder.stop()


async def test_what_is_clear_never_meets_the_encoder(router: TaskRouter, files: Path) -> None:
    async with cascade(router, files) as (classifier, encoder):
        found = await classifier.classify(CLEAR)

        assert (found.task, found.decided_by, found.row) == ("paint", "static", None)
        assert encoder.batches == []


async def test_what_is_unclear_is_encoded_once(router: TaskRouter, files: Path) -> None:
    async with cascade(router, files) as (classifier, encoder):
        first = await classifier.classify(UNCLEAR)
        again = await classifier.classify(f"  {UNCLEAR.upper()}!! ")

        assert (first.decided_by, again.decided_by) == ("full", "cache")
        assert first.row is not None
        assert again.row is not None
        assert np.array_equal(first.row, again.row)
        assert encoder.batches == [1]


async def test_the_memory_is_bounded(router: TaskRouter, files: Path) -> None:
    async with cascade(router, files, cache_count=1) as (classifier, _):
        steps = [
            (await classifier.classify(text)).decided_by
            for text in (UNCLEAR, UNCLEAR, "Quelle peinture pour le mur ?", UNCLEAR)
        ]

        assert steps == ["full", "cache", "full", "full"]


async def test_estimates_of_quality_get_their_rows(router: TaskRouter, files: Path) -> None:
    async with cascade(router, files, wants_rows=True) as (classifier, _):
        found = await classifier.classify(CLEAR)

        assert found.decided_by == "static"
        assert found.row is not None
        assert found.row.shape == (384,)


async def test_what_comes_together_is_one_batch(router: TaskRouter, files: Path) -> None:
    async with cascade(router, files) as (classifier, encoder):
        gate = threading.Event()
        encoder.before = gate.wait
        first = asyncio.create_task(classifier.classify(UNCLEAR))
        while not encoder.batches:
            await asyncio.sleep(0)
        others = [
            asyncio.create_task(classifier.classify(f"Wie lange muss das {place} in den Ofen?"))
            for place in range(5)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.set()
        found = await asyncio.gather(first, *others)

        assert encoder.batches == [1, 5]
        assert {one.decided_by for one in found} == {"full"}


async def test_a_slow_encoder_does_not_hold_a_request(router: TaskRouter, files: Path) -> None:
    async with cascade(router, files, budget_s=0.001) as (classifier, encoder):
        gate = threading.Event()
        encoder.before = gate.wait
        found = await classifier.classify(UNCLEAR)
        gate.set()

        assert found.decided_by == "static"
        assert found.note == "the encoder took longer than its 1 ms"
        while (again := await classifier.classify(UNCLEAR)).decided_by != "cache":
            await asyncio.sleep(0.01)  # what came too late is remembered
        assert again.note == ""


async def test_a_broken_encoder_does_not_fail_a_request(
    router: TaskRouter, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("out of everything")

    async with cascade(router, files) as (classifier, encoder):
        encoder.before = fail
        found = await classifier.classify(UNCLEAR)
        encoder.before = lambda: None
        mended = await classifier.classify(UNCLEAR)

        assert (found.decided_by, found.note) == ("static", "the encoder failed")
        assert (mended.decided_by, mended.note) == ("full", "")
        assert "encoder_failed" in caplog.text


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))))
def test_any_text_has_one_decision(router: TaskRouter, text: str) -> None:
    encoder = _encoder()
    first, again = router.decide(text, encoder), router.decide(text, encoder)

    assert first.task == again.task
    assert np.array_equal(first.probabilities, again.probabilities)
    assert sum(first.scores().values()) == pytest.approx(1, abs=1e-4)
    assert first.task in router.fitted.tasks


@functools.cache
def _encoder() -> OnnxEncoder:
    return OnnxEncoder(kept(None))


@pytest.mark.parametrize("text", ["", " \n", "\0" * 10, "?" * 200_000, "多" * 50_000, "\ud800"])
def test_odd_texts(router: TaskRouter, text: str) -> None:
    assert router.decide(text, _encoder()).task in router.fitted.tasks


def test_one_task_and_one_example_are_enough(files: Path) -> None:
    alone = fit_examples({"bake": ["How do I bake bread?"]}, None).router
    encoder = OnnxEncoder(files)

    assert alone.decide("How do I bake a cake?", encoder).task == "bake"
    assert not alone.decide("Who won the World Cup in 1998?", encoder).is_in_scope


def test_two_steps_say_what_each_would(router: TaskRouter) -> None:
    texts = [*EXAMPLES["paint"], UNCLEAR, "Quelle peinture pour le mur ?"]
    encoder = _encoder()
    together = router.decide_all(texts, encoder)

    assert [one.decided_by for one in together][-2:] == ["full", "full"]
    assert "static" in {one.decided_by for one in together[:-2]}
    for text, one in zip(texts, together, strict=True):
        assert router.decide(text, encoder).task == one.task
