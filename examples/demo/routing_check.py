"""How well the routing examples tell the tasks apart: `python -m examples.demo.routing_check`.

The router that the gateway fits to them when it starts, on fresh prompts and on foreign ones.
"""

import random

from examples.demo import plan
from examples.demo.tasks import TASKS
from gateway.routing.onnx_encoder import OnnxEncoder
from gateway.routing.opening import fit_examples
from gateway.routing.task_router import STATIC

PROMPTS_PER_TASK = 200


def main() -> None:
    """Print the mistakes, the accuracy, the refusals and who decided."""
    opened = fit_examples({name: _lines(f"routing/{name}.txt") for name in TASKS}, None)
    encoder = OnnxEncoder(opened.encoder)
    prompts, tasks = _fresh_prompts()
    decisions = opened.router.decide_all(prompts, encoder)
    for prompt, task, found in zip(prompts, tasks, decisions, strict=True):
        if found.task != task:
            print(f"wrong: {task} taken for {found.task}: {prompt}")
    right = sum(found.task == task for found, task in zip(decisions, tasks, strict=True))
    refused = sum(not found.is_in_scope for found in decisions)
    static = sum(found.decided_by == STATIC for found in decisions)
    strangers = _lines("out_of_scope.txt")
    let_in = sum(found.is_in_scope for found in opened.router.decide_all(strangers, encoder))
    print(f"{right} of {len(tasks)} prompts go to their specialist; {refused} are refused")
    print(f"{static} of them are decided by the static step")
    print(f"{let_in} of {len(strangers)} foreign prompts are let in")


def _fresh_prompts() -> tuple[list[str], list[str]]:
    rng = random.Random(plan.ROUTING_CHECK_SEED)
    tasks = [name for name in TASKS for _ in range(PROMPTS_PER_TASK)]
    return [TASKS[name].generate(rng).prompt for name in tasks], tasks


def _lines(name: str) -> list[str]:
    return (plan.DEMO_DIR / name).read_text("utf-8").splitlines()


if __name__ == "__main__":
    main()
