"""How much memory packing takes: a process's anonymous memory, its imports included, at its peak.

What is mapped from the models' files is not counted: it goes when others need the room.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import commands
from merge_on_load import CheckpointWriter, TensorSpec

REPO = Path(__file__).parents[2]
LIMIT_BYTES = 2 << 30
# Of Llama 2's 7B: packing holds a few tensors, so that one layer tells what 32 take.
EMBEDDING = (32000, 4096)
LAYER = {
    **{f"self_attn.{name}_proj": (4096, 4096) for name in "qkvo"},
    **{f"mlp.{name}_proj": (11008, 4096) for name in ("gate", "up")},
    "mlp.down_proj": (4096, 11008),
}
# auto goes by the weights alone: `--keep` climbs its ladder, `--max-bytes` tries all on each one.
PACKED: dict[str, tuple[str, ...]] = {
    **{
        codec: ("--codec", codec)
        for codec in (
            *("lossless", "int8", "int4", "int2", "onebit", "sparse:keep=16", "topk:keep=16"),
            *("lowrank:rank16=16", "lowrank:rank8=2,rank3=126,group_size=256"),
            "lowrank:rank16=16,residual=1",
            "lowrank:rank3=1089,group_size=256",  # the ladder's largest product, of an embedding
        )
    },
    "auto --keep 0.5": ("--codec", "auto", "--keep", "0.5"),
    "auto --max-bytes": ("--codec", "auto", "--max-bytes", str(200_000_000)),
}
SINGLE = tuple(codec for codec in PACKED if not codec.startswith("auto"))
_BLOCK_ROWS = 1024

Figures = dict[str, Any]


def measure(
    packed: Sequence[str] = SINGLE,
    *,
    layer_count: int = 1,
    heads: Sequence[str] = ("model.embed_tokens", "lm_head"),
    directory: Path | None = None,
) -> Figures:
    """By key of PACKED: peak of anonymous memory, and seconds. `auto` tries the same codecs, all of
    them on each tensor, for the better part of an hour.

    layer_count: of the 7B's layers; heads: of its embeddings. directory: of the two models and the
    delta; None: the system's.
    """
    shapes = {f"{name}.weight": EMBEDDING for name in heads} | {
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(layer_count)
        for name, shape in LAYER.items()
    }
    with tempfile.TemporaryDirectory(dir=directory) as made:
        base, model = Path(made) / "base", Path(made) / "model"
        size_bytes = _write(base, shapes, 0.0)
        _write(model, shapes, 0.001)
        found = {name: _run(base, model, PACKED[name]) for name in packed}
    return {"model_bytes": size_bytes, "limit_bytes": LIMIT_BYTES, "packed": found}


def _run(base: Path, model: Path, options: Sequence[str]) -> Figures:
    out = base.parent / "packed.delta"
    told: list[str | Path] = ["pack", "--base", base, "--model", model, "--out", out]
    ran = commands.run([sys.executable, "-m", "gateway", *told, "--overwrite", *options], cwd=REPO)
    stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "anonymous_bytes": ran.anonymous_bytes,
        "seconds": ran.seconds,
        "stored_bytes": stored,
    }


def _write(path: Path, shapes: dict[str, tuple[int, int]], change: float) -> int:
    """Random weights, the same for both models, and what the second has moved by; their bytes."""
    specs = {name: TensorSpec("BF16", shape) for name, shape in shapes.items()}
    weights, moved = np.random.default_rng(0), np.random.default_rng(1)
    with CheckpointWriter.open(path, specs) as writer:
        for name, (rows, width) in shapes.items():
            tensor = torch.empty((rows, width), dtype=torch.bfloat16)
            for begin in range(0, rows, _BLOCK_ROWS):
                shape = (min(_BLOCK_ROWS, rows - begin), width)
                block = 0.02 * weights.standard_normal(shape, np.float32)
                if change:
                    block += change * moved.standard_normal(shape, np.float32)
                tensor[begin : begin + _BLOCK_ROWS] = torch.from_numpy(block).bfloat16()
            writer.add(name, tensor)
    return sum(spec.size_bytes for spec in specs.values())
