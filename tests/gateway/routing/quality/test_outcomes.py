"""Files of outcomes: both forms, what is unknown, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.routing.quality.outcomes import BadOutcomes, read_outcomes


def written(path: Path, *lines: Any) -> Path:
    file = path / "outcomes.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    single = written(
        tmp_path,
        {"prompt": "a", "model": "small", "score": 0.25, "cost_usd": 0.001},
        {"prompt": "a", "model": "large", "score": 1},
        {"prompt": "b", "model": "large", "score": 0, "cost_usd": 0.5},
    )
    one = read_outcomes(single)
    grouped = written(
        tmp_path,
        {"prompt": "a", "scores": {"small": 0.25, "large": 1}, "cost_usd": {"small": 0.001}},
        {"prompt": "b", "scores": {"large": 0, "small": None}, "cost_usd": {"large": 0.5}},
    )
    other = read_outcomes(grouped)

    for found in (one, other):
        assert found.prompts == ("a", "b")
        assert found.models == ("large", "small")
        np.testing.assert_array_equal(found.scores, [[1, 0.25], [0, np.nan]])
        np.testing.assert_array_equal(found.costs_usd, [[np.nan, 0.001], [0.5, np.nan]])


def test_what_is_missing_is_unknown_and_not_zero(tmp_path: Path) -> None:
    found = read_outcomes(
        written(
            tmp_path,
            {"prompt": "a", "scores": {"m": None, "n": 0.5}, "cost_usd": None},
            {"prompt": "b", "scores": {"m": 0.0, "n": math.nan}, "cost_usd": {"m": 0, "n": 0.25}},
        )
    )

    np.testing.assert_array_equal(found.scores, [[np.nan, 0.5], [0, np.nan]])
    np.testing.assert_array_equal(found.costs_usd, [[np.nan, np.nan], [0, 0.25]])


def test_several_trials_are_averaged(tmp_path: Path) -> None:
    lines = [{"prompt": "a", "model": "m", "score": score} for score in (0, 1, 1, 1)]

    found = read_outcomes(written(tmp_path, *lines))

    assert found.scores.tolist() == [[0.75]]


def test_other_keys_and_other_ends_of_lines_are_kept_out_of_it(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    file.write_text('\n{"prompt": "a\u2028b", "model": "m", "score": 1, "set": "x"}\n\n')

    assert read_outcomes(file).prompts == ("a\u2028b",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "prompt"),
        ('{"model": "m", "score": 1}', "prompt"),
        ('{"prompt": 1, "model": "m", "score": 1}', "prompt"),
        ('{"prompt": "a"}', "either"),
        ('{"prompt": "a", "model": "m", "scores": {}}', "either"),
        ('{"prompt": "a", "model": "", "score": 1}', "name"),
        ('{"prompt": "a", "model": 3, "score": 1}', "name"),
        ('{"prompt": "a", "model": "m", "score": true}', "must be a number"),
        ('{"prompt": "a", "model": "m", "score": "1"}', "must be a number"),
        ('{"prompt": "a", "model": "m", "score": 1.5}', "from 0 to 1"),
        ('{"prompt": "a", "model": "m", "score": -0.1}', "from 0 to 1"),
        ('{"prompt": "a", "model": "m", "score": 1, "cost_usd": -1}', "at least 0"),
        ('{"prompt": "a", "model": "m", "score": 1, "cost_usd": Infinity}', "finite"),
        ('{"prompt": "a", "scores": [1]}', "scores"),
        ('{"prompt": "a", "scores": {"m": 1}, "cost_usd": 3}', "cost_usd"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "outcomes.jsonl"
    file.write_text('{"prompt": "a", "model": "m", "score": 1}\n' + line + "\n")

    with pytest.raises(BadOutcomes, match=r"outcomes.jsonl, line 2: .*" + reason):
        read_outcomes(file)


@pytest.mark.parametrize("content", [b"", b"\n", b'{"prompt": "a", "model": "m"}\n'])
def test_a_file_without_scores_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "outcomes.jsonl"
    file.write_bytes(content)

    with pytest.raises(BadOutcomes, match="no scores"):
        read_outcomes(file)


def test_what_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    file.write_bytes(b'{"prompt": "\xff"}')

    with pytest.raises(BadOutcomes, match="UTF-8 at byte 12"):
        read_outcomes(file)
