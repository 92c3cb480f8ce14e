"""Real but tiny models of many architectures, with random weights, on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from merge_on_load import Checkpoint

SHAPE: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADED = {**SHAPE, "head_dim": 8}
ALIKE = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
MPT = {"vocab_size": 120, "d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 64}

# One small config per family, and the class that makes a model of it.
ARCHITECTURES: dict[str, tuple[str, Any]] = {
    "llama": ("AutoModelForCausalLM", lambda: transformers.LlamaConfig(**SHAPE)),
    "mistral": ("AutoModelForCausalLM", lambda: transformers.MistralConfig(**SHAPE)),
    "qwen2-tied": (
        "AutoModelForCausalLM",
        lambda: transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True),
    ),
    "qwen3": ("AutoModelForCausalLM", lambda: transformers.Qwen3Config(**HEADED)),
    "gemma2": ("AutoModelForCausalLM", lambda: transformers.Gemma2Config(**HEADED)),
    "phi3": ("AutoModelForCausalLM", lambda: transformers.Phi3Config(**SHAPE)),
    "gpt-neox": ("AutoModelForCausalLM", lambda: transformers.GPTNeoXConfig(**ALIKE)),
    "mpt": ("AutoModelForCausalLM", lambda: transformers.MptConfig(**MPT)),
    "bert": ("AutoModelForMaskedLM", lambda: transformers.BertConfig(**ALIKE)),
}


def write(path: Path, architecture: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """A model with random weights; changes: of its config, and `dtype` of its tensors."""
    kind, config = ARCHITECTURES[architecture]
    made = config()
    dtype = changes.pop("dtype", torch.float32)
    shard_size = changes.pop("max_shard_size", "5GB")
    for name, value in changes.items():
        setattr(made, name, value)
    torch.manual_seed(seed)
    model = getattr(transformers, kind).from_config(made).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape).to(dtype))
    model.save_pretrained(path, max_shard_size=shard_size)
    return path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    checkpoint = Checkpoint.open(path)
    return {name: checkpoint.read(name).clone() for name in checkpoint.names}


def load(path: Path, kind: str = "AutoModelForCausalLM") -> Any:
    """The model as transformers loads it; complains of what is missing or too much."""
    model, report = getattr(transformers, kind).from_pretrained(path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    assert not report["mismatched_keys"], report
    return model.eval()


def digest(path: Path) -> dict[str, bytes]:
    """Every file's content, by name."""
    return {one.name: one.read_bytes() for one in path.iterdir() if one.is_file()}
