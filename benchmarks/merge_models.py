"""Checkpoints to merge: a random base, and small differences from it, in bfloat16."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import say
from merge_on_load import CheckpointWriter, TensorSpec

NAMES = ("base", "one", "two")
_PIECE = 1 << 24

Shape = Mapping[str, int]
TINY_LLAMA: Shape = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
LLAMA_7B: Shape = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}


def make(home: Path, shape: Shape) -> list[Path]:
    """The base and its two variants, made where they are not there yet."""
    found = []
    for number, name in enumerate(NAMES):
        path = home / name
        if not path.is_dir():
            say(f"making {path}")
            _write(path, shape, number)
        found.append(path)
    return found


def parameter_count(shape: Shape) -> int:
    """Of one model."""
    return sum(spec.parameter_count for spec in specs_of(shape).values())


def read_once(models: list[Path]) -> None:
    """So that the files are in the page cache, for whoever comes first."""
    piece = bytearray(1 << 24)
    for model in models:
        for path in model.glob("*.safetensors"):
            with path.open("rb", buffering=0) as file:
                while file.readinto(piece):
                    pass


def specs_of(shape: Shape) -> dict[str, TensorSpec]:
    """The tensors of a Llama of that shape."""
    wide, inner = shape["hidden_size"], shape["intermediate_size"]
    narrow = wide // shape["num_attention_heads"] * shape["num_key_value_heads"]
    layer = {
        "input_layernorm.weight": (wide,),
        "mlp.down_proj.weight": (wide, inner),
        "mlp.gate_proj.weight": (inner, wide),
        "mlp.up_proj.weight": (inner, wide),
        "post_attention_layernorm.weight": (wide,),
        "self_attn.k_proj.weight": (narrow, wide),
        "self_attn.o_proj.weight": (wide, wide),
        "self_attn.q_proj.weight": (wide, wide),
        "self_attn.v_proj.weight": (narrow, wide),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape["vocab_size"], wide)}
    for i in range(shape["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": one for name, one in layer.items()}
    shapes |= {"model.norm.weight": (wide,), "lm_head.weight": (shape["vocab_size"], wide)}
    return {name: TensorSpec("BF16", one) for name, one in shapes.items()}


def _write(path: Path, shape: Shape, number: int) -> None:
    specs = specs_of(shape)
    with CheckpointWriter.open(path, specs) as writer:
        for place, (name, spec) in enumerate(specs.items()):
            writer.add(name, _tensor(spec, place, number))
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            **shape,
        }
        writer.add_text("config.json", json.dumps(config, indent=1).encode())


def _tensor(spec: TensorSpec, place: int, number: int) -> torch.Tensor:
    """The base's tensor, number 0, or that and a tenth as much again."""
    count = spec.parameter_count
    found = torch.empty(count, dtype=torch.bfloat16)
    for begin in range(0, count, _PIECE):
        size = min(_PIECE, count - begin)
        values = _normal(size, place, begin, 0) * 0.02
        if number:
            values += _normal(size, place, begin, number) * 0.002
        found[begin : begin + size] = torch.from_numpy(values)
    return found.view(spec.shape)


def _normal(size: int, *key: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.Generator(np.random.SFC64(key)).standard_normal(size, np.float32)
