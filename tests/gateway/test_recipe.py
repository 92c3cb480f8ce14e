"""A specialist that is stored as a merge recipe, through the real door; and the commands."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml
from grpc import StatusCode

from deltafleet.v1 import fleet_pb2
from examples.demo.tasks import TASKS
from merge_on_load import Checkpoint, Delta, Merged
from support.alone import answers_alone
from support.command import run
from support.fleet import DEMO, Fleet, refusal, running_fleet

DEMO_FILES = DEMO.parent
LONGEST = 24
PROMPTS = [TASKS["sql"].generate(random.Random(seed)).prompt for seed in range(6)]


def recipe_of(**weights: float) -> dict[str, object]:
    return {
        "merge_method": "task_arithmetic",
        "base_model": str(DEMO_FILES / "base"),
        "models": [
            {"model": str(DEMO_FILES / f"{name}.delta"), "parameters": {"weight": weight}}
            for name, weight in weights.items()
        ],
    }


@pytest.fixture(scope="module")
def fleet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sql is a delta; mixture is merged of two deltas; nothing is a recipe of what is not there."""
    root = tmp_path_factory.mktemp("recipes")
    (root / "mixture.yaml").write_text(yaml.safe_dump(recipe_of(sql=0.9, triage=0.2)))
    (root / "nothing.yaml").write_text(yaml.safe_dump(recipe_of(sql=0.9, nowhere=0.2)))
    specialists: dict[str, dict[str, object]] = {
        name: {"description": name, "recipe": f"{name}.yaml", "examples": [f"of {name}"]}
        for name in ("mixture", "nothing")
    }
    delta = str(DEMO_FILES / "sql.delta")
    specialists["sql"] = {"description": "sql", "delta": delta, "examples": ["a query"]}
    path = root / "fleet.yaml"
    base = {"path": str(DEMO_FILES / "base")}
    path.write_text(yaml.safe_dump({"base": base, "specialists": specialists}))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mixed(fleet_file: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(fleet_file.parent, fleet_file) as running:
        yield running


async def test_a_recipe_answers_as_the_merged_checkpoint_does_alone(
    mixed: Fleet, fleet_file: Path, tmp_path: Path
) -> None:
    recipe = fleet_file.with_name("mixture.yaml")
    merged = await run("merge", recipe, tmp_path / "merged")
    assert merged.code == 0, merged.errors
    expected = await asyncio.to_thread(answers_alone, tmp_path / "merged", PROMPTS, LONGEST)
    asked = [
        mixed.ask(prompt, model=model, max_output_token_count=LONGEST)
        for prompt in PROMPTS
        for model in ("mixture", "sql")
    ]
    answers = await asyncio.gather(*asked)

    assert [answer.text for answer in answers[::2]] == expected
    digests = {answer.summary.weights_digest for answer in answers[::2]}
    assert digests == {Merged.open(recipe).fingerprint()}
    assert digests != {answer.summary.weights_digest for answer in answers[1::2]}


async def test_models_show_a_recipe(mixed: Fleet, fleet_file: Path) -> None:
    page = await mixed.models.ListModels(fleet_pb2.ListModelsRequest())
    found = {model.name: model for model in page.models}
    mixture, base = found["mixture"], Checkpoint.open(DEMO_FILES / "base")

    assert mixture.codec == "recipe"
    assert json.loads(mixture.lineage)["method"] == "task_arithmetic"
    assert found["sql"].stored_size_bytes < mixture.stored_size_bytes < base.size_bytes * 2
    assert "nowhere.delta" in found["nothing"].fault


async def test_a_recipe_that_is_refused_takes_only_itself_down(mixed: Fleet) -> None:
    failure = await refusal(mixed.ask("a", model="nothing"))

    assert failure.code is StatusCode.FAILED_PRECONDITION
    assert failure.reason == "ERROR_REASON_SPECIALIST_UNLOADABLE"
    assert "nowhere.delta" in failure.message


async def test_the_family_of_a_recipe(fleet_file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "family.svg"
    told = await run("tree", fleet_file.with_name("mixture.yaml"), "--svg", picture)

    assert told.code == 0, told.errors
    assert told.output.splitlines()[0] == "mixture.yaml  (task_arithmetic, seed 0)"
    codec = Delta.open(DEMO_FILES / "sql.delta").codec
    assert f"sql.delta  (weight 0.9; delta; {codec})" in told.output
    assert picture.read_text().startswith("<svg")


async def test_a_merge_that_is_refused_says_why_and_leaves_nothing(
    fleet_file: Path, tmp_path: Path
) -> None:
    refused = await run("merge", fleet_file.with_name("nothing.yaml"), tmp_path / "out")

    assert refused.code == 1
    assert "nowhere.delta" in refused.errors
    assert not list(tmp_path.iterdir())


async def test_a_specialist_has_one_source(fleet_file: Path) -> None:
    document = yaml.safe_load(fleet_file.read_text())
    document["specialists"]["sql"]["recipe"] = "mixture.yaml"
    both = fleet_file.with_name("both.yaml")
    both.write_text(yaml.safe_dump(document))
    document["specialists"]["sql"] = {"description": "d", "recipe": "gone.yaml", "examples": ["e"]}
    gone = fleet_file.with_name("gone-fleet.yaml")
    gone.write_text(yaml.safe_dump(document))

    assert "exactly one of delta and recipe" in (await run("check", both)).errors
    assert "specialists.sql.recipe: there is no file" in (await run("check", gone)).errors


async def test_a_model_of_the_hub_that_was_fetched_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub itself is out of reach; what huggingface_hub keeps of it is laid out by hand."""
    kept = tmp_path / "hub" / "models--org--base"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123456789012345678901234567890123456789")
    (kept / "snapshots").mkdir()
    snapshot = kept / "snapshots" / "0123456789012345678901234567890123456789"
    snapshot.symlink_to(DEMO_FILES / "base")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("org/base", "org/unheard"):
        document = {"merge_method": "passthrough", "models": [{"model": name}]}
        (tmp_path / f"{name[4:]}.yaml").write_text(yaml.safe_dump(document))

    found = await run("merge", tmp_path / "base.yaml", tmp_path / "out")
    unheard = await run("merge", tmp_path / "unheard.yaml", tmp_path / "none")

    assert found.code == 0, found.errors
    expected = Checkpoint.open(DEMO_FILES / "base").fingerprint()
    assert Checkpoint.open(tmp_path / "out").fingerprint() == expected
    assert unheard.code == 1
    assert "org/unheard" in unheard.errors
    assert not (tmp_path / "none").exists()
