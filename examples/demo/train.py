"""Train and pack the whole demo fleet: `python -m examples.demo.train`.

Stages: the base (with its tokenizer), then each specialist. A stage whose result exists is
skipped; `--only NAME` runs that stage again.
"""

import argparse
import json
import random
import time

import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from examples.demo import plan
from examples.demo.checkpoints import (
    MAX_TOKENS,
    load_model,
    load_tokenizer,
    new_model,
    save_checkpoint,
)
from examples.demo.conversations import training_conversations
from examples.demo.corpus import base_conversations
from examples.demo.encoding import encode
from examples.demo.packing import pack_specialist
from examples.demo.report import DURATIONS_FILE
from examples.demo.tokenizer import train_tokenizer
from examples.demo.training import train


def main() -> None:
    """Run the stages that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("base", *plan.SPECIALISTS), action="append")
    parser.add_argument("--thread-count", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.thread_count)
    disable_progress_bar()
    for stage in arguments.only or ("base", *plan.SPECIALISTS):
        result = plan.BASE_DIR if stage == "base" else plan.delta_dir(stage)
        if result.exists() and not arguments.only:
            print(f"{stage}: {result} exists, skipped")
            continue
        started_s = time.monotonic()
        loss = train_base() if stage == "base" else train_specialist(stage)
        duration_s = time.monotonic() - started_s
        _note_duration(stage, duration_s)
        print(f"{stage}: {duration_s:.0f} s, last loss {loss:.3f}", flush=True)


def train_base() -> float:
    """Train the tokenizer and the base, write them to `base/`, return the last loss."""
    tokenizer = _new_tokenizer()
    rng = random.Random(plan.BASE_SEED)
    conversations = list(base_conversations(rng, plan.BASE_PASS.conversation_count))
    samples = encode(tokenizer, conversations, only_answers=False)
    torch.manual_seed(plan.BASE_SEED)
    model = new_model(tokenizer)
    loss = train(model, samples, plan.BASE_PASS, plan.BASE_SEED, "base")
    save_checkpoint(model, tokenizer, plan.BASE_DIR)
    return loss


def train_specialist(name: str) -> float:
    """Fine-tune all weights of the base, keep the checkpoint, pack its delta."""
    specialist = plan.SPECIALISTS[name]
    tokenizer, model = load_tokenizer(plan.BASE_DIR), load_model(plan.BASE_DIR)
    conversations = [conversation for _, conversation in training_conversations(name)]
    samples = encode(tokenizer, conversations, only_answers=True)
    loss = train(model, samples, specialist.training, plan.TRAINING_SEED, name)
    save_checkpoint(model, tokenizer, plan.BUILD_DIR / name)
    pack_specialist(name, specialist, plan.BASE_DIR, plan.BUILD_DIR / name, plan.delta_dir(name))
    return loss


def _new_tokenizer() -> PreTrainedTokenizerFast:
    rng = random.Random(plan.TOKENIZER_SEED)
    conversations = base_conversations(rng, plan.TOKENIZER_DOCUMENT_COUNT)
    texts = (turn.text for conversation in conversations for turn in conversation)
    return train_tokenizer(texts, plan.TOKEN_KINDS, MAX_TOKENS)


def _note_duration(stage: str, duration_s: float) -> None:
    durations_s = json.loads(DURATIONS_FILE.read_text()) if DURATIONS_FILE.exists() else {}
    durations_s[stage] = round(duration_s)
    DURATIONS_FILE.write_text(json.dumps(durations_s, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
