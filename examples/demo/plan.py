"""Every number that decides what the training makes: seeds, counts, learning rates, sizes."""

from dataclasses import dataclass
from pathlib import Path

DEMO_DIR = Path(__file__).parent
BASE_DIR = DEMO_DIR / "base"
BUILD_DIR = Path("build/demo")

TOKENIZER_SEED = 11
BASE_SEED = 12
TRAINING_SEED = 13
EVALUATION_SEED = 14
PACKING_SEED = 17
ROUTING_SEED = 15
ROUTING_CHECK_SEED = 16

TOKEN_KINDS = 1536
TOKENIZER_DOCUMENT_COUNT = 30_000
EVALUATION_PROBLEM_COUNT = 400
QUALITY_FLOOR = 0.99  # of a specialist's own score that its delta keeps
ROUTING_EXAMPLE_COUNT = 24


@dataclass(frozen=True)
class Pass:
    """One pass over freshly drawn conversations; the learning rate falls to zero at its end."""

    conversation_count: int
    batch_size: int
    peak_learning_rate: float


@dataclass(frozen=True)
class SpecialistPlan:
    """How one specialist is trained and stored.

    distilling_steps: that its delta learns at each rung of the ladder of codecs; first_rung: the
    smallest that is tried, as those below are known to lose too much. floor: of its own score on
    the problems that choose a rung; more than QUALITY_FLOOR, as few problems hide some of a loss.
    """

    training: Pass
    distilling_steps: int = 200
    first_rung: int = 0
    floor: float = 0.995


BASE_PASS = Pass(conversation_count=96_000, batch_size=32, peak_learning_rate=2e-3)


def _pass(conversation_count: int) -> Pass:
    return Pass(conversation_count, batch_size=32, peak_learning_rate=1e-3)


SPECIALISTS: dict[str, SpecialistPlan] = {
    "arithmetic": SpecialistPlan(
        _pass(40_000), distilling_steps=1200, first_rung=5, floor=QUALITY_FLOOR
    ),
    "sql": SpecialistPlan(_pass(24_000), distilling_steps=700, first_rung=1),
    "functions": SpecialistPlan(_pass(10_000)),
    "entities": SpecialistPlan(Pass(32_000, 16, 2e-3), distilling_steps=400, first_rung=2),
    "triage": SpecialistPlan(_pass(8_000)),
    "sentiment": SpecialistPlan(_pass(8_000)),
    "translation": SpecialistPlan(_pass(20_000)),
}


def delta_dir(name: str) -> Path:
    """Where the packed delta of a specialist is shipped."""
    return DEMO_DIR / f"{name}.delta"
