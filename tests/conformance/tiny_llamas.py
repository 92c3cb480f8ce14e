"""Tiny Llama checkpoints and recipes over them, as mergekit reads them."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 64, 160, 2, 192

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

Tensors = dict[str, torch.Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name in "qkvo":
            found[f"{layer}self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        found[f"{layer}mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        found[f"{layer}mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        found[f"{layer}mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        found[f"{layer}input_layernorm.weight"] = (HIDDEN,)
        found[f"{layer}post_attention_layernorm.weight"] = (HIDDEN,)
    return found


def base_tensors(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """Normal numbers of deviation 0.05."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=random) * 0.05).to(dtype)
        for name, shape in shapes().items()
    }


def tuned_tensors(base: Tensors, seed: int, size: float = 0.01, part: float = 0.8) -> Tensors:
    """The base, a part of whose elements has moved by normal numbers of this deviation."""
    random = torch.Generator().manual_seed(seed)
    tuned = {}
    for name, tensor in base.items():
        change = torch.randn(tensor.shape, generator=random) * size
        change *= torch.rand(tensor.shape, generator=random) < part
        tuned[name] = (tensor.float() + change).to(tensor.dtype)
    return tuned


def save(folder: Path, tensors: Tensors) -> None:
    """A checkpoint without a tokenizer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def read(folder: Path) -> Tensors:
    """All tensors of a checkpoint."""
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def write_recipe(file: Path, recipe: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(recipe))
