"""A merge recipe on a real vLLM: merged when it is loaded, then switched to like any other."""

from __future__ import annotations

from pathlib import Path

import yaml
from engine.asking import answer_of, job
from engine.tiny_models import CONTEXT_TOKEN_COUNT, architectures, train_tokenizer
from vllm_engine.probing import OPTIONS, write_fleet

from merge_on_load import Checkpoint, Merged
from merge_on_load.recipes import merge
from model_pool.engine import Weights
from model_pool.vllm.engine import VllmEngine
from support.alone import answers_alone

PROMPTS = ["select name, price", "the engine reads a prompt", "größer als"]


async def test_a_recipe_is_merged_into_the_running_engine(tmp_path: Path) -> None:
    config = architectures(len(train_tokenizer()))["llama"]
    config.head_dim = 32
    fleet = write_fleet(tmp_path, config)
    recipe = tmp_path / "recipe.yaml"
    document = {
        "merge_method": "ties",
        "base_model": str(fleet.base),
        "models": [
            {"model": str(fleet.weights[name].delta), "parameters": {"weight": 1, "density": 0.5}}
            for name in ("sql", "chat")
        ],
    }
    recipe.write_text(yaml.safe_dump(document))
    merge(recipe, tmp_path / "merged")
    expected = answers_alone(tmp_path / "merged", PROMPTS, 24)
    base = Weights("base", Checkpoint.open(fleet.base).fingerprint())
    mixture = Weights("mixture", Merged.open(recipe).fingerprint(), recipe)
    engine = VllmEngine(
        fleet.base,
        OPTIONS,
        specialists=[recipe],
        context_token_count=CONTEXT_TOKEN_COUNT,
        thread_count=1,
    )
    await engine.start()
    try:
        await engine.load(base)
        before = [await answer_of(engine, job(prompt, "base")) for prompt in PROMPTS]
        await engine.load(mixture)
        found = [await answer_of(engine, job(prompt, "mixture")) for prompt in PROMPTS]
        after = [await answer_of(engine, job(prompt, "base")) for prompt in PROMPTS]
    finally:
        await engine.stop()

    assert found == expected
    assert before == after != found
