"""From files to weights in memory: base and delta beside the base alone; files in the page cache.

    python -m benchmarks.deltas.cold_start

The base alone is read as fast as it can be: every tensor into memory of its own, a few megabytes at
a time, on all threads. What checks a base, its fingerprint, is told apart: a worker takes it once,
when it begins, whatever it loads then.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from merge_on_load import Checkpoint, Delta, load, pack
from merge_on_load.hashing import parallel_map
from merge_on_load.names import WEIGHTS_NAME
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import raw_bytes

ROOT = Path("build/benchmarks/deltas/cold")
CODECS = ("onebit", "int4", "sparse", "lossless")
ROUND_COUNT = 7
_READ_BYTES = 4 << 20
_LAYER_COUNT = 8
_WIDTH, _INNER, _VOCABULARY = 2048, 5632, 16_384

Figures = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def measure(root: Path = ROOT) -> Figures:
    """Seconds of each round: "base" alone; base and each codec's delta; "fingerprint" of the base;
    "verify" of each delta's files, which `stream` does and `load` does not. And sizes.

    Checkpoint and deltas are made where they are not there yet.
    """
    base, deltas = _made(root)
    known = Checkpoint.open(base)
    known.fingerprint()
    work: dict[str, Callable[[], object]] = {"base": partial(_read, base)}
    for codec, delta in deltas.items():
        work[codec] = partial(_load, known, delta)
        work[f"{codec}, verify"] = partial(_verify, delta)
    work["fingerprint"] = partial(_fingerprint, base)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(ROUND_COUNT + 1):
        for name, run in work.items():
            began_s = time.perf_counter()
            kept = run()  # frees it after the time is taken
            if turn:
                seconds[name].append(time.perf_counter() - began_s)
            del kept
    return {
        "base_bytes": known.size_bytes,
        "delta_bytes": {codec: Delta.open(delta).size_bytes for codec, delta in deltas.items()},
        "seconds": seconds,
    }


def times_of_base(seconds: dict[str, list[float]], name: str) -> float:
    """How many times as long as the base alone: median over the rounds."""
    pairs = zip(seconds[name], seconds["base"], strict=True)
    return statistics.median(taken_s / base_s for taken_s, base_s in pairs)


def _read(base: Path) -> Tensors:
    checkpoint = Checkpoint.open(base)
    tensors = _empty(checkpoint.specs)
    file = os.open(base / WEIGHTS_NAME, os.O_RDONLY)
    pieces = []
    for name, tensor in tensors.items():
        data, begin = raw_bytes(tensor).data, checkpoint.place(name)[0]
        for at in range(0, len(data), _READ_BYTES):
            pieces.append((data[at : at + _READ_BYTES], begin + at))
    parallel_map(lambda piece: os.preadv(file, [piece[0]], piece[1]), pieces)
    os.close(file)
    return tensors


def _load(base: Checkpoint, delta: Path) -> Tensors:
    tensors = _empty(base.specs)
    load(base, Delta.open(delta), tensors)
    return tensors


def _verify(delta: Path) -> None:
    Delta.open(delta).verify()


def _fingerprint(base: Path) -> str:
    return Checkpoint.open(base).fingerprint()


def _empty(specs: dict[str, TensorSpec]) -> Tensors:
    return {name: torch.empty(spec.shape, dtype=spec.torch_dtype) for name, spec in specs.items()}


def _made(root: Path) -> tuple[Path, dict[str, Path]]:
    """A base of a few hundred megabytes, and the delta of each codec."""
    base, tuned = root / "base", root / "tuned"
    if not base.exists():
        random = torch.Generator().manual_seed(0)
        before = {name: torch.randn(shape, generator=random) * 0.02 for name, shape in _shapes()}
        after = {
            name: one + torch.randn(one.shape, generator=random) * 5e-4
            for name, one in before.items()
        }
        for directory, tensors in ((tuned, after), (base, before)):
            directory.mkdir(parents=True)
            whole = {name: one.bfloat16() for name, one in tensors.items()}
            save_file(whole, directory / WEIGHTS_NAME)
    deltas = {codec: root / f"{codec}.delta" for codec in CODECS}
    for codec, delta in deltas.items():
        if not delta.exists():
            pack(base, tuned, codec, delta)
    return base, deltas


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", (_VOCABULARY, _WIDTH))
    ]
    for layer in range(_LAYER_COUNT):
        at = f"model.layers.{layer}"
        shapes += [(f"{at}.self_attn.{one}_proj.weight", (_WIDTH, _WIDTH)) for one in "qkvo"]
        shapes += [(f"{at}.mlp.{one}_proj.weight", (_INNER, _WIDTH)) for one in ("up", "gate")]
        shapes += [(f"{at}.mlp.down_proj.weight", (_WIDTH, _INNER))]
        shapes += [(f"{at}.{one}_layernorm.weight", (_WIDTH,)) for one in ("input", "post")]
    return shapes


def main() -> int:
    """See the module."""
    found = measure()
    sys.stdout.write(f"base: {found['base_bytes'] / 1e6:.0f} MB\n")
    for name, taken in found["seconds"].items():
        told = f"{statistics.median(taken):.3f} s, {times_of_base(found['seconds'], name):.2f} x"
        sys.stdout.write(f"{name}: {told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
