"""LoRA adapters beside deltas on a real vLLM: one batch with the base, no switch between them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from engine.asking import Fleet, answer_of, job, pieces_of
from engine.tiny_models import (
    CONTEXT_TOKEN_COUNT,
    architectures,
    train_tokenizer,
    write_variant,
)
from vllm_engine.probing import OPTIONS, inside, write_fleet

from merge_on_load import Checkpoint, Lora, export_lora, pack, unpack
from merge_on_load.errors import CorruptPayload, MergeError, NotADelta
from model_pool.engine import Weights
from model_pool.errors import UnknownModel
from model_pool.vllm.engine import VllmEngine
from support.adapters import write_adapter
from support.alone import answers_alone

PROMPTS = ("select name, price", "the engine reads a prompt", "größer als")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A tied base, two deltas, two adapters of different rank and scale, one that was a delta."""
    root = tmp_path_factory.mktemp("mixed")
    config = architectures(len(train_tokenizer()))["llama"]
    config.head_dim, config.tie_word_embeddings = 32, True
    fleet = write_fleet(root, config)
    for name, settings in {"law": {"r": 8}, "code": {"r": 3, "use_rslora": True}}.items():
        path = write_adapter(fleet.base, root / name, seed=settings["r"], **settings)
        fleet.weights[name] = Weights(name, Lora.open(path).digest, lora=path)
    tuned = write_variant(fleet.base, root / "thin", seed=5, scale=0.1)
    delta = pack(fleet.base, tuned, "lowrank:rank16=7,rank3=9", root / "thin.delta")
    exported = export_lora(fleet.base, delta.path, root / "thin.lora", drop=True).adapter
    fleet.weights["thin"] = Weights("thin", exported.digest, lora=exported.path)
    base_digest = Checkpoint.open(fleet.base).fingerprint()
    fleet.weights["base"] = Weights("base", base_digest)
    return fleet


@pytest.fixture(scope="module")
def alone(mixed: Fleet, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """(model, prompt) -> what plain transformers says on the merged checkpoint."""
    directory, found = tmp_path_factory.mktemp("merged"), {}
    for name, weights in mixed.weights.items():
        checkpoint = mixed.base
        if (source := weights.lora or weights.delta) is not None:
            checkpoint = directory / name
            unpack(mixed.base, source, checkpoint)
        for prompt, answer in zip(PROMPTS, answers_alone(checkpoint, [*PROMPTS], 24), strict=True):
            found[name, prompt] = answer
    assert len(set(found.values())) == len(found), "the models answer alike"
    return found


@asynccontextmanager
async def started(mixed: Fleet) -> AsyncIterator[VllmEngine]:
    paths = [weights.lora or weights.delta for weights in mixed.weights.values()]
    engine = VllmEngine(
        mixed.base,
        OPTIONS,
        specialists=[path for path in paths if path is not None],
        context_token_count=CONTEXT_TOKEN_COUNT,
        thread_count=1,
    )
    await engine.start()
    try:
        for weights in mixed.weights.values():
            await engine.load(weights)
        yield engine
    finally:
        await engine.stop()


def known_adapters(worker: Any) -> set[int]:
    return set(worker.list_loras())


async def test_adapters_deltas_and_base_on_one_engine(
    mixed: Fleet, alone: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    async with started(mixed) as engine:
        before = engine.report().switch_count
        for _ in range(3):
            together = [(name, prompt) for name in ("law", "base", "code") for prompt in PROMPTS]
            answers = await asyncio.gather(
                *(answer_of(engine, job(prompt, name)) for name, prompt in together)
            )
            assert answers == [alone[asked] for asked in together]
        # The base's first turn; nothing since.
        assert engine.report().switch_count <= before + 1

        # A switch makes vLLM forget its adapters; they are there again when asked.
        for name in ("sql", "law", "chat", "code", "base"):
            assert await answer_of(engine, job(PROMPTS[0], name)) == alone[name, PROMPTS[0]]
        everything = [(name, prompt) for name in mixed.weights for prompt in PROMPTS]
        answers = await asyncio.gather(
            *(answer_of(engine, job(prompt, name)) for name, prompt in everything)
        )
        assert answers == [alone[asked] for asked in everything]

        (*_, last) = await pieces_of(engine, job(PROMPTS[0], "law"))
        assert last.weights_digest == mixed.weights["law"].digest

        await check_refusals(engine, mixed, alone, tmp_path)
        await check_coming_and_going(engine, mixed, alone)


async def check_refusals(
    engine: VllmEngine, mixed: Fleet, alone: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    """What cannot be served is refused when it is loaded, and harms nobody."""
    law = mixed.weights["law"].lora
    assert law is not None
    too_wide = write_adapter(mixed.base, tmp_path / "wide", r=600)
    cut_off = shutil.copytree(law, tmp_path / "cut")
    with (cut_off / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(1000)
    for path, kind, reason in (
        (too_wide, CorruptPayload, "rank"),
        (cut_off, MergeError, "cut"),
        (tmp_path / "nowhere", NotADelta, "nowhere"),
    ):
        with pytest.raises(kind, match=reason):
            await engine.load(Weights("law", "another", lora=path))
    assert await answer_of(engine, job(PROMPTS[1], "law")) == alone["law", PROMPTS[1]]


async def check_coming_and_going(
    engine: VllmEngine, mixed: Fleet, alone: dict[tuple[str, str], str]
) -> None:
    """Unloaded while it is asked: what runs ends well, then vLLM has forgotten it."""
    process = engine._process
    running = asyncio.create_task(answer_of(engine, job(PROMPTS[2], "law")))
    await asyncio.sleep(0)
    await engine.unload("law")
    with pytest.raises(UnknownModel):
        await answer_of(engine, job(PROMPTS[2], "law"))
    assert await running == alone["law", PROMPTS[2]]
    await answer_of(engine, job(PROMPTS[2], "code"))
    assert len(await inside(process, known_adapters)) == 1

    await engine.load(mixed.weights["law"])
    assert await answer_of(engine, job(PROMPTS[2], "law")) == alone["law", PROMPTS[2]]
