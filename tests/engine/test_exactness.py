"""The engine's greedy answers against transformers' own `generate`, prompt by prompt."""

from __future__ import annotations

import asyncio
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.asking import Fleet, answer_of, job, pieces_of
from engine.reference import Reference
from engine.tiny_models import (
    CONTEXT_TOKEN_COUNT,
    SAMPLE_TEXT,
    architectures,
    read_reference,
    train_tokenizer,
    write_checkpoint,
    write_variant,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from merge_on_load import Lora, pack
from merge_on_load.errors import CorruptPayload, MissingTensor, ShapeMismatch
from model_pool.active_job import ActiveJob
from model_pool.base_model import BaseModel
from model_pool.engine import Weights
from model_pool.transformers_engine import TransformersEngine
from support.adapters import read_merged, write_adapter

PROMPT_COUNT = 120
KINDS = ("llama", "llama3-rope", "qwen2-tied", "qwen2-mixed-windows", "mistral-window")


def make_prompts() -> list[tuple[str, int]]:
    """Prompts of 1 to about 150 tokens, each with its answer's limit."""
    numbers = random.Random(11)
    words = " ".join(SAMPLE_TEXT).split()
    return [
        (" ".join(numbers.choices(words, k=numbers.randrange(1, 24))), numbers.randrange(1, 48))
        for _ in range(PROMPT_COUNT)
    ]


@torch.inference_mode()
def reference_answer(
    model, tokenizer: PreTrainedTokenizerFast, prompt: str, token_count: int
) -> str:
    prompt_ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    room = CONTEXT_TOKEN_COUNT - prompt_ids.shape[1]
    out = model.generate(
        prompt_ids,
        attention_mask=torch.ones_like(prompt_ids),
        do_sample=False,
        max_new_tokens=min(token_count, room),
    )
    answer_ids = out[0, prompt_ids.shape[1] :]
    return tokenizer.decode(answer_ids, skip_special_tokens=True)


def references(path: Path, prompts: list[tuple[str, int]], model: Any = None) -> list[str]:
    """What `generate` answers. model: another than the one at `path`."""
    # The families bring their own pre-tokenizers: only AutoTokenizer reads as the engine does.
    model, tokenizer = model or read_reference(path), AutoTokenizer.from_pretrained(path)
    return [reference_answer(model, tokenizer, prompt, count) for prompt, count in prompts]


@pytest.mark.parametrize("kind", KINDS)
async def test_batched_answers_equal_generate_one_by_one(kind: str, tmp_path: Path) -> None:
    config = architectures(len(train_tokenizer()))[kind]
    path = write_checkpoint(tmp_path / kind, config, seed=4)
    prompts = make_prompts()
    expected = await asyncio.to_thread(references, path, prompts)
    engine = TransformersEngine(path, thread_count=1)
    await engine.start()
    await engine.load(Weights("base", "digest"))
    jobs = [job(prompt, max_output_token_count=count) for prompt, count in prompts]
    answers = await asyncio.gather(*(answer_of(engine, asked) for asked in jobs))
    await engine.stop()

    assert answers == expected
    assert len(set(answers)) > PROMPT_COUNT // 2


async def test_an_answer_tells_how_probable_it_was(fleet: Fleet, monkeypatch: Any) -> None:
    chosen: dict[str, list[int]] = {}
    accept = ActiveJob.accept

    def listen(self: ActiveJob, token_id: int, *others: Any) -> None:
        chosen.setdefault(self.job.messages[0].content, []).append(token_id)
        accept(self, token_id, *others)

    monkeypatch.setattr(ActiveJob, "accept", listen)
    prompts = [prompt for prompt, _ in make_prompts()[:12]]
    engine = TransformersEngine(fleet.base, thread_count=1)
    await engine.start()
    await engine.load(fleet.weights["base"])
    hot = {"temperature": 1.5, "seed": 3}
    jobs = [job(prompt, **(hot if i % 2 else {})) for i, prompt in enumerate(prompts)]
    jobs = [replace(one, wants_log_probability=i % 3 > 0) for i, one in enumerate(jobs)]
    ends = [pieces[-1] for pieces in await asyncio.gather(*(pieces_of(engine, j) for j in jobs))]
    await engine.stop()

    reference = Reference(fleet.base)
    for asked, prompt, end in zip(jobs, prompts, ends, strict=True):
        if not asked.wants_log_probability:
            assert end.mean_log_probability is None
            continue
        expected = reference.mean_log_probability(prompt, chosen[prompt])
        assert end.mean_log_probability == pytest.approx(expected, abs=1e-3)


async def test_a_delta_answers_as_the_model_that_it_was_made_from(fleet: Fleet) -> None:
    prompts = make_prompts()[:20]
    expected = await asyncio.to_thread(references, fleet.variant, prompts)
    engine = TransformersEngine(fleet.base, thread_count=1)
    await engine.start()
    await engine.load(fleet.weights["sql"])
    jobs = [job(prompt, "sql", max_output_token_count=count) for prompt, count in prompts]
    answers = await asyncio.gather(*(answer_of(engine, asked) for asked in jobs))
    await engine.stop()

    assert answers == expected


async def test_a_delta_on_a_delta_answers_as_the_model_that_it_was_made_from(
    fleet: Fleet, tmp_path: Path
) -> None:
    further = write_variant(fleet.variant, tmp_path / "further", seed=9, scale=0.1)
    parent = fleet.weights["sql"].delta
    assert parent
    chained = pack(fleet.base, further, "lossless", tmp_path / "further.delta", parent=parent)
    prompts = make_prompts()[:20]
    expected = await asyncio.to_thread(references, further, prompts)
    engine = TransformersEngine(fleet.base, thread_count=1)
    await engine.start()
    await engine.load(fleet.weights["sql"])
    await engine.load(Weights("further", chained.digest, chained.path))
    jobs = [
        job(prompt, model, max_output_token_count=count)
        for model in ("further", "sql")
        for prompt, count in prompts
    ]
    answers = await asyncio.gather(*(answer_of(engine, asked) for asked in jobs))
    await engine.stop()

    assert answers[:20] == expected != answers[20:]


async def test_an_adapter_answers_as_peft_does_beside_the_base_and_a_delta(
    fleet: Fleet, tmp_path: Path
) -> None:
    prompts = make_prompts()[:20]
    adapter = write_adapter(fleet.base, tmp_path / "law.lora", target_modules="all-linear")
    with_adapter = read_merged(fleet.base, adapter)
    expected = {
        "base": await asyncio.to_thread(references, fleet.base, prompts),
        "sql": await asyncio.to_thread(references, fleet.variant, prompts),
        "law": await asyncio.to_thread(references, fleet.base, prompts, with_adapter),
    }
    engine = TransformersEngine(fleet.base, thread_count=1)
    await engine.start()
    law = Weights("law", Lora.open(adapter).digest, lora=adapter)
    for weights in (fleet.weights["base"], fleet.weights["sql"], law):
        await engine.load(weights)
    asked = [(model, *one) for one in prompts for model in expected]
    jobs = [job(prompt, model, max_output_token_count=n) for model, prompt, n in asked]
    answers = await asyncio.gather(*(answer_of(engine, one) for one in jobs))
    alike = {engine.size_bytes(weights) for weights in engine.report().loaded}
    await engine.stop()

    for place, model in enumerate(expected):
        assert answers[place::3] == expected[model], model
    assert expected["law"] != expected["base"]
    assert len(alike) == 1


async def test_an_adapter_that_is_refused_leaves_what_was_loaded(
    fleet: Fleet, tmp_path: Path
) -> None:
    adapter = write_adapter(fleet.base, tmp_path / "law.lora")
    payload = adapter / "adapter_model.safetensors"
    broken = shutil.copytree(adapter, tmp_path / "broken.lora")
    (broken / payload.name).write_bytes(payload.read_bytes()[:-1])
    engine = TransformersEngine(fleet.base, thread_count=1)
    await engine.start()
    await engine.load(Weights("law", "digest", lora=adapter))
    before = await answer_of(engine, job("hello", "law"))
    with pytest.raises(CorruptPayload, match=r"broken\.lora"):
        await engine.load(Weights("law", "another", lora=broken))
    after = await answer_of(engine, job("hello", "law"))
    await engine.stop()

    assert after == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_built_module_equals_the_one_that_transformers_loads(kind: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / kind, architectures(len(train_tokenizer()))[kind])
    base = BaseModel(path, torch.float32, torch.device("cpu"))
    built, reference = base.build(Weights("base", "digest")), read_reference(path)

    for (name, tensor), (_, expected) in zip(
        built.named_parameters(), reference.named_parameters(), strict=True
    ):
        assert torch.equal(tensor, expected), name
    buffers = dict(reference.named_buffers())
    assert set(dict(built.named_buffers())) == set(buffers) != set()
    for name, buffer in built.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert base.size_bytes == sum(tensor.nbytes for tensor in built.parameters())


def test_sixteen_bit_weights_take_half_the_memory(fleet: Fleet) -> None:
    full, half = (
        BaseModel(fleet.base, dtype, torch.device("cpu"))
        for dtype in (torch.float32, torch.bfloat16)
    )
    module = half.build(fleet.weights["sql"])

    assert half.size_bytes * 2 == full.size_bytes
    assert {tensor.dtype for tensor in module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "error", "tensor"),
    [
        ({"num_hidden_layers": 4}, MissingTensor, "model.layers.3."),
        ({"num_hidden_layers": 2}, MissingTensor, "model.layers.2."),
        ({"intermediate_size": 100}, ShapeMismatch, "mlp"),
        ({"attention_bias": True}, MissingTensor, "bias"),
    ],
)
def test_a_base_that_does_not_fit_its_config_is_refused_by_name(
    change, error, tensor, tmp_path: Path
) -> None:
    config = architectures(len(train_tokenizer()))["llama"]
    path = write_checkpoint(tmp_path / "base", config)
    config.update(change)
    config.save_pretrained(path)

    with pytest.raises(error, match=tensor):
        BaseModel(path, torch.float32, torch.device("cpu"))


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    config = architectures(len(train_tokenizer()))["llama"]
    path = write_checkpoint(tmp_path / "base", config)
    (path / "chat_template.jinja").unlink()

    with pytest.raises(ValueError, match="no chat template"):
        BaseModel(path, torch.float32, torch.device("cpu"))
