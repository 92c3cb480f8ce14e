"""Many at once: no answer lost, none mixed up, each what the specialist says alone."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import merge_on_load
from examples.demo.tasks import TASKS
from support.fleet import DEMO, Fleet

CLIENT_COUNT = 64
CROWD_S = 30.0
PROMPTS_PER_TASK = 12
LONGEST = 96


def answers_alone(checkpoint: Path, prompts: list[str]) -> list[str]:
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
        output = model.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)
        text = output[0, inputs["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(text, skip_special_tokens=True))
    return answers


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """prompt → (task, the answer of its specialist alone)."""
    rng = random.Random(64)
    directory = tmp_path_factory.mktemp("alone")
    found = {}
    for task in sorted(TASKS):
        prompts = [TASKS[task].generate(rng).prompt for _ in range(PROMPTS_PER_TASK)]
        checkpoint = directory / task
        merge_on_load.unpack(DEMO.parent / "base", DEMO.parent / f"{task}.delta", checkpoint)
        answers = answers_alone(checkpoint, prompts)
        found |= {prompt: (task, answer) for prompt, answer in zip(prompts, answers, strict=True)}
    return found


async def test_a_crowd_of_clients_for_half_a_minute(
    fleet: Fleet, expected: dict[str, tuple[str, str]]
) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + CROWD_S
    asked: Counter[str] = Counter()
    wrong: list[tuple[str, str, str]] = []

    async def client(number: int) -> None:
        rng = random.Random(number)
        prompts = sorted(expected)
        while True:
            prompt = rng.choice(prompts)
            task, text = expected[prompt]
            ask = fleet.stream if number % 2 else fleet.ask
            answer = await ask(prompt, max_output_token_count=LONGEST)
            asked[task] += 1
            if (answer.decision.model, answer.text) != (task, text):
                wrong.append((prompt, answer.decision.model, answer.text))
            if loop.time() > end:
                return

    await asyncio.gather(*(client(number) for number in range(CLIENT_COUNT)))

    assert not wrong
    assert set(asked) == set(TASKS)
    assert asked.total() >= CLIENT_COUNT
