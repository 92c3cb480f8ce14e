"""A specialist's delta: the smallest of the ladder of codecs that keeps what it knows."""

from itertools import islice
from pathlib import Path

from examples.demo import plan
from examples.demo.conversations import training_conversations, unseen_problems
from examples.demo.plan import SpecialistPlan
from merge_on_load import Delta
from merge_on_load.calibration.distilling import Distilling
from merge_on_load.calibration.examples import Example
from merge_on_load.calibration.judge import Examples, Judge
from merge_on_load.calibration.ladder import LADDER, pack_auto

_BATCH_SIZE = 32


def pack_specialist(
    name: str, specialist: SpecialistPlan, base: Path, model: Path, out: Path
) -> Delta:
    """Pack and replace what is at out."""
    return pack_auto(
        base,
        model,
        out,
        floor=specialist.floor,
        judge=Judge(model, examples_for_packing(name, specialist.distilling_steps)),
        rungs=LADDER[specialist.first_rung :],
        overwrite=True,
    )


def examples_for_packing(name: str, step_count: int) -> Examples:
    """What a delta learns from: the prompts of its training. What decides on its codec: problems
    that neither training saw nor the evaluation asks for.
    """
    asked = (problem for problem, _ in training_conversations(name))
    problems, _ = unseen_problems(name, plan.EVALUATION_PROBLEM_COUNT, plan.PACKING_SEED)
    return Examples(
        calibration=[
            Example(one.prompt, one.answer) for one in islice(asked, step_count * _BATCH_SIZE)
        ],
        evaluation=[Example(one.prompt, one.answer) for one in problems],
        distilling=Distilling(step_count, _BATCH_SIZE),
    )
