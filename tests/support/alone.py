"""What a model of the demo fleet says by itself: plain transformers on its full checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import merge_on_load
from examples.demo.tasks import TASKS
from support.fleet import DEMO


def answers_alone(checkpoint: Path, prompts: list[str], longest: int) -> list[str]:
    """What plain transformers says to each prompt, one at a time, greedily, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    answers = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        output = model.generate(**inputs, do_sample=False, max_new_tokens=longest)
        text = output[0, inputs["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(text, skip_special_tokens=True))
    return answers


def unpack_specialist(task: str, directory: Path) -> Path:
    """A specialist of the demo fleet as a checkpoint of its own."""
    checkpoint = directory / task
    merge_on_load.unpack(DEMO.parent / "base", DEMO.parent / f"{task}.delta", checkpoint)
    return checkpoint


def draw_prompts(rng: random.Random, per_task_count: int) -> dict[str, list[str]]:
    """task -> prompts that it is for."""
    return {
        task: [TASKS[task].generate(rng).prompt for _ in range(per_task_count)]
        for task in sorted(TASKS)
    }
