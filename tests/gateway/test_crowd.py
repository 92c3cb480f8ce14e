"""Many at once: no answer lost, none mixed up, each what the specialist says alone."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from examples.demo.tasks import TASKS
from support.alone import answers_alone, draw_prompts, unpack_specialist
from support.fleet import Fleet

CLIENT_COUNT = 64
CROWD_S = 30.0
PROMPTS_PER_TASK = 12
LONGEST = 96


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """prompt → (task, the answer of its specialist alone)."""
    directory = tmp_path_factory.mktemp("alone")
    found = {}
    for task, prompts in draw_prompts(random.Random(64), PROMPTS_PER_TASK).items():
        answers = answers_alone(unpack_specialist(task, directory), prompts, LONGEST)
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
