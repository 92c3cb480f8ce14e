"""Every number that decides what the training makes: seeds, counts, learning rates, codecs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Codec = Literal["lossless", "int8", "onebit"]

DEMO_DIR = Path(__file__).parent
BASE_DIR = DEMO_DIR / "base"
BUILD_DIR = Path("build/demo")

TOKENIZER_SEED = 11
BASE_SEED = 12
TRAINING_SEED = 13
EVALUATION_SEED = 14
ROUTING_SEED = 15
ROUTING_CHECK_SEED = 16

TOKEN_KINDS = 1536
TOKENIZER_DOCUMENT_COUNT = 30_000
EVALUATION_PROBLEM_COUNT = 400
ROUTING_EXAMPLE_COUNT = 24


@dataclass(frozen=True)
class Pass:
    """One pass over freshly drawn conversations; the learning rate falls to zero at its end."""

    conversation_count: int
    batch_size: int
    peak_learning_rate: float


@dataclass(frozen=True)
class SpecialistPlan:
    """How one specialist is trained and stored; `one_bit` keeps its delta to one bit a weight."""

    codec: Codec
    free: Pass
    one_bit: Pass | None = None


BASE_PASS = Pass(conversation_count=96_000, batch_size=32, peak_learning_rate=2e-3)


def _free(conversation_count: int) -> Pass:
    return Pass(conversation_count, batch_size=32, peak_learning_rate=1e-3)


def _one_bit(conversation_count: int) -> Pass:
    return Pass(conversation_count, batch_size=32, peak_learning_rate=5e-4)


SPECIALISTS: dict[str, SpecialistPlan] = {
    "arithmetic": SpecialistPlan("lossless", _free(40_000)),
    "sql": SpecialistPlan("int8", _free(24_000)),
    "functions": SpecialistPlan("onebit", _free(10_000), _one_bit(10_000)),
    "entities": SpecialistPlan("onebit", Pass(32_000, 16, 2e-3), Pass(12_000, 16, 7e-4)),
    "triage": SpecialistPlan("onebit", _free(8_000), _one_bit(8_000)),
    "sentiment": SpecialistPlan("onebit", _free(8_000), _one_bit(8_000)),
    "translation": SpecialistPlan("onebit", _free(20_000), _one_bit(12_000)),
}


def delta_dir(name: str) -> Path:
    """Where the packed delta of a specialist is shipped."""
    return DEMO_DIR / f"{name}.delta"
