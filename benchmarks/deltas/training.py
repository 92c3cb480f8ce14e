"""Fully fine-tuned specialists to pack: those of the demo's base, and of a larger base.

    python -m benchmarks.deltas.training [--family demo|large] [--only NAME ...] [--threads 1]

Checkpoints are left in build/benchmarks/deltas/FAMILY; a stage whose result is there is
skipped. The demo's are as `python -m examples.demo.train` trains them; it ships their deltas alone.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from benchmarks.timing import say
from examples.demo import plan
from examples.demo.checkpoints import load_model, load_tokenizer, save_checkpoint
from examples.demo.conversations import training_conversations
from examples.demo.corpus import base_conversations
from examples.demo.encoding import encode
from examples.demo.plan import Pass, SpecialistPlan
from examples.demo.training import train

ROOT = Path("build/benchmarks/deltas")


@dataclass(frozen=True)
class Family:
    """A base and what is fine-tuned from it. base: how it is trained; None for the demo's own.

    tasks: the specialists, that of the hardest task first.
    """

    name: str
    tasks: dict[str, SpecialistPlan]
    base: Pass | None = None

    @property
    def base_dir(self) -> Path:
        """The base checkpoint."""
        return self.directory("base") if self.base else plan.BASE_DIR

    def directory(self, name: str) -> Path:
        """Where the checkpoint of a specialist, or of a base that is trained here, lies."""
        return ROOT / self.name / name


DEMO = Family("demo", plan.SPECIALISTS)
LARGE = Family(
    "large",
    {
        "arithmetic": SpecialistPlan(
            Pass(24_000, 32, 5e-4), distilling_steps=400, first_rung=5, floor=plan.QUALITY_FLOOR
        ),
        "triage": SpecialistPlan(Pass(4_000, 32, 3e-4)),
    },
    Pass(conversation_count=24_000, batch_size=32, peak_learning_rate=1e-3),
)
FAMILIES = {one.name: one for one in (DEMO, LARGE)}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.deltas.training", description=__doc__
    )
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--only", action="append", help="the base or a task")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    disable_progress_bar()
    for name in chosen.family or FAMILIES:
        train_family(FAMILIES[name], chosen.only)
    return 0


def train_family(family: Family, only: list[str] | None = None) -> None:
    """Every checkpoint that is not there yet. only: these alone."""
    for name in ("base", *family.tasks):
        directory = family.base_dir if name == "base" else family.directory(name)
        if directory.exists() or (only and name not in only):
            continue
        began_s = time.monotonic()
        model, tokenizer, loss = _base(family) if name == "base" else _specialist(family, name)
        aside = directory.with_suffix(".partial")
        shutil.rmtree(aside, ignore_errors=True)
        save_checkpoint(model, tokenizer, aside)
        aside.rename(directory)
        say(f"{family.name}/{name}: {time.monotonic() - began_s:.0f} s, last loss {loss:.3f}")


def train_gently() -> Path:
    """The directory of a specialist of the demo's base whose weights moved little."""
    gentle = SpecialistPlan(Pass(3_200, 32, 1e-5))
    family = Family("gentle", {"sentiment": gentle})
    train_family(family, ["sentiment"])
    return family.directory("sentiment")


def _base(family: Family) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, float]:
    assert family.base is not None, "the demo's base comes with the project"
    tokenizer = load_tokenizer(plan.BASE_DIR)
    rng = random.Random(plan.BASE_SEED)
    conversations = list(base_conversations(rng, family.base.conversation_count))
    samples = encode(tokenizer, conversations, only_answers=False)
    torch.manual_seed(plan.BASE_SEED)
    model = LlamaForCausalLM(_large_config(tokenizer))
    return model, tokenizer, train(model, samples, family.base, plan.BASE_SEED, "base")


def _specialist(
    family: Family, name: str
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, float]:
    """All weights learn; the problems are those that the evaluation leaves out."""
    tokenizer, model = load_tokenizer(family.base_dir), load_model(family.base_dir)
    training = family.tasks[name].training
    drawn = islice(training_conversations(name), training.conversation_count)
    samples = encode(tokenizer, [each for _, each in drawn], only_answers=True)
    return model, tokenizer, train(model, samples, training, plan.TRAINING_SEED, name)


def _large_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """26 million parameters; the demo's architecture and tokenizer."""
    config = LlamaConfig.from_pretrained(plan.BASE_DIR)
    assert isinstance(config, LlamaConfig)
    config.update(
        {
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "vocab_size": len(tokenizer),
        }
    )
    return config


if __name__ == "__main__":
    sys.exit(main())
