"""Quality, measured on a real model: the demo's base and one of its specialists."""

import itertools
import json
from pathlib import Path

import pytest

from examples.demo import plan
from examples.demo.conversations import training_conversations
from merge_on_load import pack, unpack
from merge_on_load.calibration.distilling import Distilling
from merge_on_load.calibration.examples import Example, read_examples
from merge_on_load.calibration.judge import Examples, Judge
from merge_on_load.errors import BadExamples

NAME = "triage"
CODING = "lowrank:group_size=256,rank3=2"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / NAME
    unpack(plan.BASE_DIR, plan.delta_dir(NAME), path)
    return path


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    drawn = itertools.islice(training_conversations(NAME), 120)
    return [Example(problem.prompt, problem.answer) for problem, _ in drawn]


def test_a_lossless_delta_keeps_everything(tmp_path, tuned, examples):
    judge = Judge(tuned, Examples(calibration=examples[:20], evaluation=examples[:20]))

    told = pack(plan.BASE_DIR, tuned, "lossless", tmp_path / "a.delta", judge=judge).measured

    assert told["quality"]["divergence_nats"] == 0
    assert told["quality"]["agreement"] == 1
    assert told["quality"]["score"] == told["quality"]["tuned_score"] > 0.9


def test_what_another_delta_lost_is_not_held_against_the_next(tmp_path, tuned, examples):
    """As where a ladder is climbed with one judge."""
    judge = Judge(tuned, Examples(calibration=examples[:20]))

    found = [
        pack(plan.BASE_DIR, tuned, codec, tmp_path / f"{codec}.delta", judge=judge).measured
        for codec in ("sparse", "lossless")
    ]

    assert found[0]["quality"]["divergence_nats"] > 0
    assert found[1]["quality"]["divergence_nats"] == 0


def test_distilling_wins_back_what_coding_lost(tmp_path, tuned, examples):
    told = {}
    for count in (0, 25):
        learning = Distilling(step_count=count, batch_size=16) if count else None
        judge = Judge(tuned, Examples(calibration=examples, distilling=learning))
        delta = pack(plan.BASE_DIR, tuned, CODING, tmp_path / f"{count}.delta", judge=judge)
        told[count] = delta.measured["quality"]

    assert told[25]["divergence_nats"] < 0.7 * told[0]["divergence_nats"]
    assert delta.codings == {CODING: 29, "lossless": 9}


def test_the_tuned_model_writes_answers_that_are_missing(tuned, examples):
    asked = [Example(one.prompt) for one in examples[:4]]

    judge = Judge(tuned, Examples(calibration=asked))

    assert judge.measured() == {"divergence_nats": 0.0, "agreement": 1.0}


def test_examples_are_read_from_lines(tmp_path):
    file = tmp_path / "examples.jsonl"
    file.write_text(json.dumps({"prompt": "a", "answer": "b"}) + "\n\n" + '{"prompt": "c"}\n')

    assert read_examples(file) == [Example("a", "b"), Example("c")]


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"answer": "a"}', '{"prompt": 3}', '{"prompt": "a", "answer": 1}']
)
def test_lines_that_are_no_examples_are_named(tmp_path, text):
    file = tmp_path / "examples.jsonl"
    file.write_text(text)

    with pytest.raises(BadExamples, match=r"line 1|no examples"):
        read_examples(file)
