"""Tiny checkpoints on disk, shaped as Hugging Face writes them."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

Tensors = Mapping[str, torch.Tensor]
Saver = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Saver:
    """save(name, tensors, shard_count=1, config="{}") writes a checkpoint and gives its path."""

    def write(name: str, tensors: Tensors, shard_count: int = 1, config: str = "{}") -> Path:
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(config)
        if shard_count == 1:
            save_file(dict(tensors), path / "model.safetensors", metadata={"format": "pt"})
            return path
        weight_map = {}
        for i in range(shard_count):
            shard = f"model-{i + 1:05d}-of-{shard_count:05d}.safetensors"
            part = {name: tensors[name] for name in list(tensors)[i::shard_count]}
            save_file(part, path / shard, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, shard)
        index = {"metadata": {}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        return path

    return write


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """flip(file, position) changes one bit of one byte, at another time even by a coarse clock."""

    def change(file: Path, position: int) -> None:
        content = bytearray(file.read_bytes())
        content[position] ^= 1
        later_ns = file.stat().st_mtime_ns + 10**9
        file.write_bytes(content)
        os.utime(file, ns=(later_ns, later_ns))

    return change


@pytest.fixture
def misalign() -> Callable[[Path], None]:
    """misalign(file) moves all tensors of a safetensors file by a byte, as its format allows."""

    def move(file: Path) -> None:
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        head, tensors = content[8 : 8 + length], content[8 + length :]
        file.write_bytes((length + 1).to_bytes(8, "little") + head + b" " + tensors)

    return move


def _weights(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (50, 24),
        "model.layers.0.self_attn.q_proj.weight": (24, 24),
        "model.layers.0.mlp.up_proj.weight": (37, 24),
        "model.layers.0.input_layernorm.weight": (24,),
        "model.norm.weight": (24,),
    }
    return {
        name: (torch.randn(shape, generator=random) * 0.02).to(torch.bfloat16)
        for name, shape in shapes.items()
    }


@pytest.fixture
def base_weights() -> dict[str, torch.Tensor]:
    return _weights(0)


@pytest.fixture
def tuned_weights(base_weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The base, changed a little everywhere but in the last norm."""
    changes = _weights(1)
    tuned = {name: base + changes[name] * 0.1 for name, base in base_weights.items()}
    return tuned | {"model.norm.weight": base_weights["model.norm.weight"].clone()}


@pytest.fixture
def base(save: Saver, base_weights: dict[str, torch.Tensor]) -> Path:
    return save("base", base_weights)


@pytest.fixture
def tuned(save: Saver, tuned_weights: dict[str, torch.Tensor]) -> Path:
    return save("tuned", tuned_weights)
