"""The models that are measured, made under build/benchmarks/ where they are not there yet.

None of them knows an end of text: an answer is as long as it was asked to be, whoever gives it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from examples.demo import plan
from merge_on_load import Delta, pack, unpack
from merge_on_load.codecs import CODEC_NAMES

ROOT = Path("build/benchmarks")
SPECIALIST_COUNT = 20
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Models:
    """A base, its deltas by name, and where a specialist has a whole checkpoint."""

    home: Path
    base: Path
    deltas: dict[str, Path]

    def merged(self, name: str) -> Path:
        """The specialist as a checkpoint of its own, made when first asked for."""
        out = self.home / "merged" / name
        if not out.is_dir():
            unpack(self.base, self.deltas[name], out)
        return out


def demo() -> Models:
    """The embedded fleet as it is shipped."""
    deltas = {name: plan.delta_dir(name) for name in plan.SPECIALISTS}
    return Models(ROOT / "demo", plan.BASE_DIR, deltas)


def big() -> Models:
    """A random bfloat16 Llama of 443 million parameters, with a delta of each codec."""
    home = ROOT / "big"
    base, tuned = home / "base", home / "tuned"
    deltas = {codec: home / f"{codec}.delta" for codec in CODEC_NAMES}
    if not base.is_dir():
        _write_random_llama(home / "new")
        (home / "new").rename(base)
    if not all(path.is_dir() for path in deltas.values()):
        tensors = load_file(base / WEIGHTS)
        torch.manual_seed(1)
        for tensor in tensors.values():
            tensor.add_(torch.randn_like(tensor), alpha=0.001)
        _write_tuned(base, tuned, tensors)
        for codec, path in deltas.items():
            pack(base, tuned, codec, path, overwrite=True)
        shutil.rmtree(tuned)
    return Models(home, base, deltas)


def twenty() -> Models:
    """The demo's base, and twenty distinct specialists: its seven, and each a little beyond or
    short of what it was trained to: base + a * (tuned - base).
    """
    home = ROOT / "twenty"
    base = home / "base"
    if not base.is_dir():
        shutil.copytree(plan.BASE_DIR, home / "new", dirs_exist_ok=True)
        _forget_the_end(home / "new")
        (home / "new").rename(base)
    deltas = {f"{task}-{number}": (task, share) for number, task, share in _variants()}
    for name, (task, share) in deltas.items():
        if not (home / f"{name}.delta").is_dir():
            _pack_variant(base, task, share, home / f"{name}.delta")
    return Models(home, base, {name: home / f"{name}.delta" for name in deltas})


def task_of(specialist: str) -> str:
    """The demo's task that one of `twenty` is for."""
    return specialist.rsplit("-", 1)[0]


def parameter_count(models: Models) -> int:
    """Of the base."""
    return sum(tensor.numel() for tensor in load_file(models.base / WEIGHTS).values())


def _variants() -> Iterator[tuple[int, str, float]]:
    """(number, task, a), the tasks taking turns."""
    shares = enumerate((1.0, 0.99, 1.01))
    pairs = product(shares, plan.SPECIALISTS)
    return ((number, task, share) for (number, share), task in islice(pairs, SPECIALIST_COUNT))


def _pack_variant(base: Path, task: str, share: float, out: Path) -> None:
    """One of the demo's specialists, with its own codec, `share` of the way from the base."""
    shipped, tuned = plan.delta_dir(task), out.with_suffix(".tuned")
    unpack(plan.BASE_DIR, shipped, tuned, overwrite=True)
    begin, end = load_file(base / WEIGHTS), load_file(tuned / WEIGHTS)
    moved = {
        name: torch.lerp(begin[name].float(), one.float(), share).to(one.dtype)
        for name, one in end.items()
    }
    shutil.rmtree(tuned)
    _write_tuned(base, tuned, moved)
    pack(base, tuned, Delta.open(shipped).codec, out)
    shutil.rmtree(tuned)


def _write_tuned(base: Path, tuned: Path, tensors: dict[str, torch.Tensor]) -> None:
    shutil.copytree(base, tuned, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
    save_file(tensors, tuned / WEIGHTS, metadata={"format": "pt"})


def _write_random_llama(path: Path) -> None:
    config = LlamaConfig(
        vocab_size=1536,  # the demo's: its tokenizer is used
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_hidden_layers=28,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path, max_shard_size="20GB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(plan.BASE_DIR / name, path / name)
    _forget_the_end(path)


def _forget_the_end(checkpoint: Path) -> None:
    """Take the end of text out of every file in which vLLM looks for it."""
    for name, key in (
        ("config.json", "eos_token_id"),
        ("config.json", "bos_token_id"),
        ("generation_config.json", "eos_token_id"),
        ("generation_config.json", "bos_token_id"),
        ("tokenizer_config.json", "eos_token"),
    ):
        content = json.loads((checkpoint / name).read_text())
        content[key] = None
        if name != "config.json":  # there the default of a missing one is not None
            del content[key]
        (checkpoint / name).write_text(json.dumps(content, indent=1))
