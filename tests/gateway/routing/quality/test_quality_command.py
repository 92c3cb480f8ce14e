"""deltafleet router: fit-quality, eval-quality, on real embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.__main__ import main
from gateway.routing.quality.model import QualityModel

COLOURS = ["red", "green", "blue", "yellow", "violet", "orange", "brown", "white", "black", "pink"]
ROOMS = ["kitchen", "attic", "hall"]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["router", *map(str, arguments)])


def write_outcomes(path: Path, rooms: list[str]) -> Path:
    """`painter` knows paint, and `baker` cakes."""
    lines = []
    for room in rooms:
        for colour in COLOURS:
            paint = f"What should I mix to get {colour} paint for the {room}?"
            lines.append({"prompt": paint, "scores": {"painter": 1, "baker": 0}})
            cake = f"How long must a cake with {colour} icing from my {room} bake?"
            lines += [
                {"prompt": cake, "model": "painter", "score": 0},
                {"prompt": cake, "model": "baker", "score": 1},
            ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def quality(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("quality")
    outcomes = write_outcomes(home / "outcomes.jsonl", ROOMS[:2])
    done = run("fit-quality", outcomes, "--out", home / "quality")
    assert done.exit_code == 0, done.output
    assert "part of oracle" in done.output
    return home / "quality"


def test_routing_by_estimates_is_better_than_one_model(quality: Path, tmp_path: Path) -> None:
    unseen = write_outcomes(tmp_path / "unseen.jsonl", ROOMS[2:])

    done = run("eval-quality", quality, unseen, "--json")

    found = json.loads(done.output)
    assert found["best_single"] == 0.5
    assert found["routed"] > 0.9
    assert found["oracle"] == 1
    assert found["cost_at_best_quality"] is None


def test_figures_are_listed(quality: Path, tmp_path: Path) -> None:
    done = run("eval-quality", quality, write_outcomes(tmp_path / "unseen.jsonl", ROOMS[2:]))

    assert "best single model" in done.output
    assert "cost at best quality   -" in done.output


def test_the_directory_is_a_model(quality: Path) -> None:
    assert QualityModel.load(quality).models == ("baker", "painter")


def test_models_that_nothing_was_learned_of_are_refused(quality: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text('{"prompt": "a", "model": "smith", "score": 1}\n')

    done = run("eval-quality", quality, file)

    assert done.exit_code == 1
    assert "smith" in done.output


def test_a_file_without_outcomes_makes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    file.write_text('{"text": "a"}\n')

    done = run("fit-quality", file, "--out", tmp_path / "quality")

    assert done.exit_code == 1
    assert "line 1" in done.output
    assert not (tmp_path / "quality").exists()


def test_an_encoder_that_is_not_there_is_told(tmp_path: Path) -> None:
    outcomes = write_outcomes(tmp_path / "outcomes.jsonl", ROOMS)
    missing = tmp_path / "no-such-encoder"

    done = run("fit-quality", outcomes, "--out", tmp_path / "quality", "--encoder", missing)

    assert done.exit_code == 1
    assert "encoder" in done.output
