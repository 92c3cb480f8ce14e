"""A specialist that is stored as a LoRA adapter, through the real door."""

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

import merge_on_load
from deltafleet.v1 import fleet_pb2, routing_pb2
from examples.demo.tasks import TASKS
from support.adapters import write_adapter
from support.alone import answers_alone
from support.command import run
from support.fleet import DEMO, Fleet, refusal, running_fleet

BASE = DEMO.parent / "base"
LONGEST = 24
PROMPTS = [TASKS["sql"].generate(random.Random(seed)).prompt for seed in range(6)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "law.lora"
    return write_adapter(BASE, path, target_modules="all-linear", lora_alpha=2)


@pytest.fixture(scope="module")
def fleet_file(adapter: Path) -> Path:
    """sql is stored as a delta, law as an adapter; magnitudes is one that is refused."""
    write_adapter(BASE, adapter.with_name("magnitudes.lora"), use_dora=True)
    stored = {
        "sql": DEMO.parent / "sql.delta",
        "law": adapter,
        "magnitudes": adapter.with_name("magnitudes.lora"),
    }
    specialists = {
        name: {"description": name, "delta": str(path), "examples": [f"a question of {name}"]}
        for name, path in stored.items()
    }
    path = adapter.with_name("fleet.yaml")
    path.write_text(yaml.safe_dump({"base": {"path": str(BASE)}, "specialists": specialists}))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mixed(fleet_file: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(fleet_file.parent, fleet_file) as running:
        yield running


async def test_an_adapter_answers_as_the_merged_model_does_alone(
    mixed: Fleet, adapter: Path, tmp_path: Path
) -> None:
    merge_on_load.unpack(BASE, adapter, tmp_path / "law")
    expected = await asyncio.to_thread(answers_alone, tmp_path / "law", PROMPTS, LONGEST)
    asked = [
        mixed.ask(prompt, model=model, max_output_token_count=LONGEST)
        for prompt in PROMPTS
        for model in ("law", "base", "sql")
    ]
    answers = await asyncio.gather(*asked)

    by_adapter, by_base, by_delta = (answers[place::3] for place in range(3))
    assert [answer.text for answer in by_adapter] == expected
    assert [answer.text for answer in by_base] != expected
    assert {one.summary.weights_digest for one in by_adapter} == {
        merge_on_load.Lora.open(adapter).digest
    }
    assert len({answers[place].summary.weights_digest for place in range(3)}) == 3
    assert by_delta[0].decision.model == "sql"


async def test_models_show_an_adapter_and_its_size(mixed: Fleet, adapter: Path) -> None:
    page = await mixed.models.ListModels(fleet_pb2.ListModelsRequest())
    models = {model.name: model for model in page.models}
    law = models["law"]

    assert {name: one.codec for name, one in models.items() if not one.fault} == {
        "base": "base",
        "law": "lora",
        "sql": merge_on_load.Delta.open(DEMO.parent / "sql.delta").codec,
    }
    assert law.kind == routing_pb2.MODEL_KIND_SPECIALIST
    assert 0 < law.stored_size_bytes < law.full_size_bytes == models["base"].stored_size_bytes
    assert law.weights_digest == merge_on_load.Lora.open(adapter).digest
    assert json.loads(law.lineage)["base_model_name_or_path"] == str(BASE)
    listed = await run("models", "--json", "--server", mixed.address)
    codecs = {one["name"]: one["codec"] for one in json.loads(listed.output)["models"]}
    assert codecs["law"] == "lora"


async def test_an_adapter_that_is_refused_takes_only_itself_down(mixed: Fleet) -> None:
    failure = await refusal(mixed.ask("a", model="magnitudes"))

    assert failure.code is StatusCode.FAILED_PRECONDITION
    assert failure.reason == "ERROR_REASON_SPECIALIST_UNLOADABLE"
    assert "use_dora" in failure.message


async def test_a_plan_needs_no_switch_for_adapters(fleet_file: Path) -> None:
    refused = await run("plan", fleet_file)
    document = yaml.safe_load(fleet_file.read_text())
    del document["specialists"]["magnitudes"]
    healthy = fleet_file.with_name("healthy.yaml")
    healthy.write_text(yaml.safe_dump(document))
    in_words = await run("plan", healthy)
    told = json.loads((await run("plan", healthy, "--json")).output)
    del document["specialists"]["sql"]
    healthy.write_text(yaml.safe_dump(document))
    alone = await run("plan", healthy)

    assert refused.code == 1
    assert "use_dora" in refused.errors
    assert "1 LoRA adapters" in in_words.output
    assert (told["delta_count"], told["adapter_count"]) == (1, 1)
    assert alone.code == 0, alone.errors


async def test_inspect_and_check_describe_an_adapter(adapter: Path, fleet_file: Path) -> None:
    described = await run("inspect", adapter)
    told = json.loads(described.output)
    checked = await run("check", fleet_file)
    refused = await run("inspect", adapter.with_name("magnitudes.lora"))

    assert (told["kind"], told["rank"], told["scales"]) == ("lora", 4, [0.5])
    assert told["target_count"] == len(told["targets"])
    assert "lora, " in checked.output
    assert checked.code == 1
    assert "use_dora" in checked.errors
    assert refused.code == 1
    assert "use_dora" in refused.errors
