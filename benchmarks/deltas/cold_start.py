"""From files to weights in memory: base and delta beside the base alone; files in the page cache.

    python -m benchmarks.deltas.cold_start

All goes into memory that nothing has touched. The base alone is read as fast as it can be: a few
megabytes at a time, on all threads, into huge pages, as `load` has them. "small pages" is the same
into memory as a process usually gets it. What checks a base, its fingerprint, is told apart: a
worker takes it once, before whatever it loads then.
"""

from __future__ import annotations

import mmap
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
from merge_on_load.memory import ask_for_huge_pages
from merge_on_load.names import WEIGHTS_NAME
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import raw_bytes
from merge_on_load.threads import parallel_map

ROOT = Path("build/benchmarks/deltas/cold")
SMALL_PAGES = "base, small pages"
CODECS = ("onebit", "int4", "sparse", "lowrank:rank4=16", "lossless")
ROUND_COUNT = 15
_READ_BYTES = 4 << 20
_LINE_BYTES = 64
_LAYER_COUNT = 8
_WIDTH, _INNER, _VOCABULARY = 2048, 5632, 16_384

Figures = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def measure(root: Path = ROOT) -> Figures:
    """Seconds of each round: "base" alone, also in small pages; base and each codec's delta;
    "fingerprint" of the base; "verify" of each delta's files, which `stream` does and `load` does
    not. And sizes.

    Checkpoint and deltas are made where they are not there yet.
    """
    base, deltas = _made(root)
    known = Checkpoint.open(base)
    known.fingerprint()
    work: dict[str, Callable[[], object]] = {
        "base": partial(_read, base, has_huge_pages=True),
        SMALL_PAGES: partial(_read, base, has_huge_pages=False),
    }
    for codec, delta in deltas.items():
        work[codec] = partial(_load, known, delta)
        work[f"{codec}, verify"] = partial(_verify, delta)
    work["fingerprint"] = partial(_fingerprint, base)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(ROUND_COUNT + 1):
        for name, run in work.items():
            _have_memory(2 * known.size_bytes)
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


def times_of_base(seconds: dict[str, list[float]], name: str, other: str = "base") -> float:
    """How many times as long as the base alone, or as another: median over the rounds."""
    pairs = zip(seconds[name], seconds[other], strict=True)
    return statistics.median(taken_s / base_s for taken_s, base_s in pairs)


def _read(base: Path, *, has_huge_pages: bool) -> Tensors:
    checkpoint = Checkpoint.open(base)
    tensors = _empty(checkpoint.specs)
    for tensor in tensors.values() if has_huge_pages else ():
        ask_for_huge_pages(tensor)
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


def _have_memory(size_bytes: int) -> None:
    """Touch as much and let it go: where a virtual machine has given memory back to its host, it
    would be waiting for that, and not every time as long.
    """
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for begin in range(0, size_bytes, mmap.PAGESIZE):
            memory[begin] = 1


def _empty(specs: dict[str, TensorSpec]) -> Tensors:
    """In memory that is new: an allocator might give what was used and freed before."""
    places, size = {}, 0
    for name, spec in specs.items():
        places[name] = size
        size += -(-spec.size_bytes // _LINE_BYTES) * _LINE_BYTES
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return {
        name: torch.frombuffer(
            memory, dtype=spec.torch_dtype, count=spec.parameter_count, offset=places[name]
        ).view(spec.shape)
        for name, spec in specs.items()
    }


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
    deltas = {codec: root / f"{codec.partition(':')[0]}.delta" for codec in CODECS}
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
