"""Write the routing examples of each task: `python -m examples.demo.routing_examples`.

One prompt a line in `routing/NAME.txt`, drawn by `plan.ROUTING_SEED`; a fleet's configuration
lists them under the task.
"""

import random
import re

from examples.demo import plan
from examples.demo.tasks import TASKS

ROUTING_DIR = plan.DEMO_DIR / "routing"
CANDIDATE_COUNT = 10


def main() -> None:
    """Write one file per task."""
    ROUTING_DIR.mkdir(exist_ok=True)
    for name in TASKS:
        prompts = routing_examples(name, plan.ROUTING_EXAMPLE_COUNT)
        (ROUTING_DIR / f"{name}.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))


def routing_examples(name: str, count: int) -> list[str]:
    """Draw `count` different prompts of a task; none contains a line break.

    Each is the one of ten candidates that shares the fewest words with those already drawn, so
    that a few examples cover the patterns of the task.
    """
    rng = random.Random(f"{plan.ROUTING_SEED} {name}")
    examples: list[str] = []
    while len(examples) < count:
        candidates = [TASKS[name].generate(rng).prompt for _ in range(CANDIDATE_COUNT)]
        overlaps = [
            max((_overlap(each, old) for old in examples), default=0) for each in candidates
        ]
        examples.append(candidates[overlaps.index(min(overlaps))])
    return examples


def _overlap(first: str, second: str) -> float:
    """Words in common over words in either: 0 to 1."""
    words, other_words = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
    return len(words & other_words) / len(words | other_words)


if __name__ == "__main__":
    main()
