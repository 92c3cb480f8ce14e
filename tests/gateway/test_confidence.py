"""How sure an answer is: curves that never fall, fitted on scored answers."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.__main__ import main
from gateway.confidence import PLAIN, BadConfidence, Curve, ScoredAnswer, fit, load

LOGPROBS = st.floats(-20, 0)
ANSWERS = st.lists(
    st.builds(ScoredAnswer, LOGPROBS, st.sampled_from([0.0, 0.5, 1.0])), min_size=20, max_size=60
)


def test_the_plain_confidence_is_the_mean_probability_of_a_token() -> None:
    assert PLAIN.confidence(math.log(0.8)) == pytest.approx(0.8)
    assert PLAIN.confidence(0.0) == 1.0
    assert PLAIN.confidence(-1e6) == 0.0


@settings(max_examples=40, deadline=None)
@given(answers=ANSWERS, one=LOGPROBS, other=LOGPROBS)
def test_a_likelier_answer_is_never_trusted_less(answers, one, other) -> None:
    if len({answer.score for answer in answers}) < 2:
        with pytest.raises(BadConfidence, match="same score"):
            fit(answers)
        return
    curve = fit(answers)
    low, high = sorted([one, other])
    assert 0 <= curve.confidence(low) <= curve.confidence(high) <= 1


def scored(rule, count: int = 2000) -> list[ScoredAnswer]:
    """Answers that are right with a probability that their likelihood tells."""
    draw = random.Random(3)
    places = [-3 * draw.random() for _ in range(count)]
    return [ScoredAnswer(place, float(draw.random() < rule(place))) for place in places]


def test_a_curve_tells_the_share_of_right_answers() -> None:
    """Also where the plain confidence is far from it."""
    steps = lambda place: 0.9 if place > -0.5 else 0.5 if place > -1.5 else 0.05  # noqa: E731
    smooth = lambda place: 1 / (1 + math.exp(-(4 * place + 5)))  # noqa: E731
    for rule, kept in ((steps, "isotonic"), (smooth, "platt")):
        curve = fit(scored(rule))
        assert curve.facts["kept"] == kept
        for place in (-2.5, -1.0, -0.25):
            assert curve.confidence(place) == pytest.approx(rule(place), abs=0.08)
        assert curve.facts["squared_error"][kept] < curve.facts["squared_error"]["plain"]


def test_answers_whose_likelihood_misleads_are_all_trusted_alike() -> None:
    curve = fit(scored(lambda place: 0.9 if place < -1.5 else 0.1))
    assert curve.confidence(-3) == pytest.approx(curve.confidence(0), abs=0.1)


def test_between_its_places_a_curve_is_straight_and_outside_level() -> None:
    curve = Curve(places=(-2.0, -1.0), values=(0.2, 0.6))
    told = [curve.confidence(place) for place in (-9, -2, -1.5, -1, 0)]
    assert told == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])


def write(path: Path, answers: list[ScoredAnswer]) -> None:
    lines = [{"mean_logprob": one.mean_logprob, "score": one.score} for one in answers]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")


@pytest.mark.parametrize("rule", [lambda p: float(p > -1), lambda p: 1 / (1 + math.exp(-p - 1))])
def test_the_command_writes_what_the_fleet_reads(tmp_path: Path, rule) -> None:
    answers = scored(rule, 200)
    write(tmp_path / "scored.jsonl", answers)
    out = tmp_path / "confidence.json"
    command = ["escalation", "fit", str(tmp_path / "scored.jsonl"), "--out", str(out)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "of 200 answers" in result.output
    assert load(out) == fit(answers)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: no mean_logprob and score"),
        ('{"score": 1}', ":2: no mean_logprob and score"),
        ('{"mean_logprob": 0.1, "score": 1}', ":2: mean_logprob: at most 0"),
        ('{"mean_logprob": NaN, "score": 1}', ":2: mean_logprob: at most 0"),
        ('{"mean_logprob": -1, "score": 1.5}', ":2: score: 0 to 1"),
        ('{"mean_logprob": -1, "score": 1}', "at least 20 are needed"),
    ],
)
def test_scored_answers_that_cannot_be_used(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "scored.jsonl"
    path.write_text('{"mean_logprob": -1, "score": 1}\n' + line + "\n")
    command = ["escalation", "fit", str(path), "--out", str(tmp_path / "out.json")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out.json").exists()


WHOLE = {"slope": None, "offset": 0.0, "places": [-1.0, 0.0], "values": [0.1, 0.9], "facts": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"slope": -1.0},
        {"places": [0.0, -1.0]},
        {"values": [0.9, 0.1]},
        {"values": [0.1, 1.5]},
        {"values": [0.1]},
        {"offset": math.inf},
        {"places": "x"},
    ],
)
def test_a_curve_that_falls_or_leaves_its_range_is_refused(tmp_path: Path, change) -> None:
    path = tmp_path / "confidence.json"
    path.write_text(json.dumps(WHOLE))
    assert load(path).confidence(-0.5) == pytest.approx(0.5)
    path.write_text(json.dumps(WHOLE | change))
    with pytest.raises(BadConfidence):
        load(path)
