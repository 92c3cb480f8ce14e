"""Tiny dense models with a tokenizer, and recipes run on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from merge_on_load.checkpoint import Checkpoint
from merge_on_load.moe import MoeRecipe, make_moe_plan
from merge_on_load.recipes.execute import run_job
from merge_on_load.recipes.plan import Plan
from merge_on_load.recipes.references import locate
from merge_on_load.recipes.sources import CheckpointSource
from merge_on_load.tensor_out import MemoryOut

CONFIGS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
SIZES = {
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,  # so large that every matrix shows in the logits
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}
WORDS = ["<unk>", "<s>", "</s>", "sum", "root", "prime", "pulse", "fever", "nurse", "the", "a"]

Documents = dict[str, Any]
Saver = Callable[..., str]


@pytest.fixture
def save_dense(tmp_path: Path) -> Saver:
    """save_dense("llama", "base", seed=0, change=None, words=WORDS, **config) -> "base".

    change(model): called before saving. words None: without a tokenizer.
    """

    def write(
        kind: str,
        name: str,
        seed: int = 0,
        change: Callable[[Any], None] | None = None,
        words: list[str] | None = WORDS,
        **config: Any,
    ) -> str:
        torch.manual_seed(seed)
        told = CONFIGS[kind](**(SIZES | {"head_dim": 8} | config))
        model = AutoModelForCausalLM.from_config(told, dtype=told.dtype)
        with torch.no_grad():
            for weight_name, weight in model.named_parameters():
                if weight_name.endswith("bias") or "norm" in weight_name:
                    weight.add_(torch.randn_like(weight) * 0.3)
            if change is not None:
                change(model)
        model.save_pretrained(tmp_path / name)
        if words is not None:
            save_tokenizer(tmp_path / name, words)
        return name

    return write


def save_tokenizer(path: Path, words: list[str]) -> None:
    """One token for each word, and one before them."""
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(path)


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., Plan]:
    """plan_of(document, seed=0): the plan of a recipe whose models lie in tmp_path."""

    def make(document: Documents, seed: int = 0) -> Plan:
        file = tmp_path / "moe.yaml"
        recipe = MoeRecipe.model_validate(document)
        sources = {
            one: CheckpointSource(Checkpoint.open(locate(one.path, one.revision, file)))
            for one in recipe.references
        }
        return make_moe_plan(recipe, sources, file, seed=seed)

    return make


@pytest.fixture
def run(plan_of: Callable[..., Plan]) -> Callable[..., dict[str, torch.Tensor]]:
    """run(document, seed=0): the assembled model's tensors."""

    def make(document: Documents, seed: int = 0) -> dict[str, torch.Tensor]:
        return tensors_of(plan_of(document, seed), seed)

    return make


@pytest.fixture
def load(tmp_path: Path, plan_of: Callable[..., Plan]) -> Callable[..., Any]:
    """load(document, seed=0): the assembled model, as transformers loads it. Nothing may be left
    over, missing or of another shape.
    """

    def make(document: Documents, seed: int = 0) -> Any:
        plan = plan_of(document, seed)
        path = tmp_path / "sparse"
        path.mkdir(exist_ok=True)
        save_file(tensors_of(plan, seed), path / "model.safetensors", metadata={"format": "pt"})
        (path / "config.json").write_text(json.dumps(plan.config))
        model, told = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        assert not any(told.values()), told
        return model.eval()

    return make


def tensors_of(plan: Plan, seed: int) -> dict[str, torch.Tensor]:
    """Every job of a plan, run."""
    found = {}
    for job in plan.jobs:
        room = np.empty(job.spec.size_bytes, np.uint8)
        run_job(job, MemoryOut(room.view(job.words)), seed=seed)
        flat = torch.from_numpy(room).view(job.spec.torch_dtype)
        found[job.tensor] = flat.reshape(job.spec.shape)
    return found


@pytest.fixture
def dense(tmp_path: Path) -> Callable[[str], Any]:
    """dense("base"): that model, loaded."""

    def make(name: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()

    return make


@pytest.fixture
def document() -> Callable[..., Documents]:
    """document("base", "one", "two", gate_mode=..., ...): a recipe with these experts."""

    def make(base: str, *experts: str, **told: Any) -> Documents:
        listed = [{"source_model": one} for one in experts]
        return {"base_model": base, "gate_mode": "random", "experts": listed, **told}

    return make
