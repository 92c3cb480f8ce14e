"""deltafleet plan as a person types it: what fits where, before anything is started."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gateway.commands.plan_fleet import preset_of
from merge_on_load import pack, prepared_size_bytes
from model_pool import capacity
from support.fleet import DEMO
from support.plan_command import planned, run

SPECIALISTS = ["arithmetic", "sql", "functions", "entities", "triage", "sentiment", "translation"]


async def test_a_7b_fleet_is_planned_without_files() -> None:
    ended = await run("--model", "mistral-7b", "--specialists", 100)
    lines = ended.output.splitlines()

    assert ended.code == 0
    assert "14.5 GB of weights, 131,072 bytes" in lines[0]
    assert "100 deltas" in lines[1]
    assert [line.split(":")[0] for line in lines if line.startswith(("A10", "H100"))] == [
        "A10",
        "A10G",
        "H100",
    ]
    assert "DOES NOT FIT beside the live weights" in ended.output
    assert "Assumed, not measured:" in lines


async def test_json_says_the_same_in_numbers() -> None:
    found = await planned("--model", "mistral-7b", "--specialists", 100)
    a10, h100 = found["cards"]["a10"], found["cards"]["h100"]

    assert found["weights_bytes"] == 2 * 7_241_732_096
    assert 0.07 < found["delta_prepared_bytes"] / found["weights_bytes"] < 0.09
    assert (a10["base_tier"], h100["base_tier"]) == ("host", "card")
    for card in (a10, h100):
        tiers = card["tiers"]
        assert sum(tier["delta_count"] for tier in tiers.values()) == 100
        assert len({name for tier in tiers.values() for name in tier["specialists"]}) == 100
        assert tiers["host"]["switch_s"] < tiers["disk"]["switch_s"]
    assert h100["tiers"]["card"]["switch_s"] < 0.02 < a10["tiers"]["host"]["switch_s"]


async def test_options_change_the_plan() -> None:
    lossless = await planned("--model", "llama-2-7b", "--codec", "lossless", "--gpu", "H100")
    roomy = await planned("--model", "qwen2.5-7b", "--gpu", "h100", "--host-memory", 500)
    full = await planned("--model", "qwen2.5-7b", "--gpu", "h100", "--contexts", 100)

    assert list(lossless["cards"]) == ["h100"]
    assert lossless["delta_prepared_bytes"] == lossless["weights_bytes"]
    assert lossless["delta_stored_bytes"] < lossless["delta_prepared_bytes"]
    assert roomy["cards"]["h100"]["tiers"]["disk"]["delta_count"] == 0
    assert full["cards"]["h100"]["context_count"] >= 100


CODINGS = (
    *("lossless", "int8", "int4:group_size=64", "int2", "onebit", "onebit:scales=2"),
    *("sparse:keep=32", "topk:keep=8,bits=3", "lowrank:rank8=2,rank3=20", "lowrank:residual=1"),
)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_shape_is_planned_with_the_sizes_that_packing_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    shape = {
        "hidden_size": 768, "intermediate_size": 1536, "num_hidden_layers": 1,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1500,
    }  # fmt: skip
    monkeypatch.setitem(capacity.PRESETS, "tiny", shape)
    random = torch.Generator().manual_seed(0)
    weights = {
        name: (0.02 * torch.randn(size, generator=random)).bfloat16()
        for name, size in capacity.tensor_shapes(shape)
    }
    for name, size in (("base", 0.0), ("tuned", 0.01)):
        (tmp_path / name).mkdir()
        moved = {
            tensor: (one + size * torch.randn(one.shape, generator=random)).bfloat16()
            for tensor, one in weights.items()
        }
        save_file(moved, tmp_path / name / "model.safetensors")
    delta = pack(tmp_path / "base", tmp_path / "tuned", coding, tmp_path / "t.delta")

    found = preset_of("tiny", coding)

    names = delta.manifest.tensors
    payload = sum(part.nbytes for name in names for part in delta.payload(name).values())
    header_bytes = 40_000
    prepared = found.deltas[0].prepared_bytes
    assert found.model.weights_bytes == sum(one.nbytes for one in weights.values())
    assert prepared < prepared_size_bytes(delta) < prepared + header_bytes
    if coding != "lossless":  # how that is stored goes by how the change compresses
        assert found.deltas[0].stored_bytes == pytest.approx(payload, rel=0.03)


async def test_what_does_not_fit_is_said_with_its_numbers() -> None:
    arguments = ("--model", "llama-2-7b", "--gpu", "a10", "--context", 16384)
    ended = await run(*arguments)
    found = (await planned(*arguments))["cards"]["a10"]

    assert "DOES NOT FIT: live weights 13.5 GB + overhead 1.50 GB + one context" in ended.output
    assert found["fits"] is False
    assert found["shortage_bytes"] > 0
    assert found["tiers"]["disk"]["switch_s"] is None


async def test_the_demo_fleet() -> None:
    found = await planned(DEMO)
    card = found["cards"]["a10"]

    assert found["model"] == "base"
    assert found["weights_bytes"] == 6_033_920
    assert found["cache_bytes_per_token"] == 2 * 4 * 4 * 64 * 2
    assert found["context_token_count"] == 512
    assert card["tiers"]["card"]["specialists"] == SPECIALISTS
    # Thin products are whole bytes once they are ready, seeded weights padded to words.
    assert 0.01 < found["delta_prepared_bytes"] / found["weights_bytes"] < 0.2


async def test_more_specialists_than_the_fleet_has() -> None:
    card = (await planned(DEMO, "--specialists", 9, "--gpu", "a10"))["cards"]["a10"]
    assert card["tiers"]["card"]["specialists"] == [*SPECIALISTS, "arithmetic-2", "sql-2"]


async def test_vllms_options_count(tmp_path: Path) -> None:
    vllm = "{dtype: float32, kv_cache_dtype: fp8, gpu_memory_utilization: 0.5}"
    plain = await planned(DEMO, "--gpu", "a10")
    found = await planned(copy_of_demo(tmp_path, f"\n  engine: vllm\n  vllm: {vllm}"))

    assert found["weights_bytes"] == 2 * plain["weights_bytes"]
    assert found["base_bytes"] == plain["base_bytes"]
    assert found["cache_bytes_per_token"] == plain["cache_bytes_per_token"] // 2
    assert found["cards"]["a10"]["budget_bytes"] == found["cards"]["a10"]["memory_bytes"] // 2


async def test_preloaded_specialists_come_first(tmp_path: Path) -> None:
    found = await planned(copy_of_demo(tmp_path, "\n  preload: [base, triage]"), "--gpu", "a10")
    assert found["cards"]["a10"]["tiers"]["card"]["specialists"][:2] == ["triage", "arithmetic"]


async def test_files_that_cannot_be_read_end_it_with_1(tmp_path: Path) -> None:
    fleet = copy_of_demo(tmp_path, "")
    (tmp_path / "sql.delta" / "delta.json").write_text("{}")
    altered = await run(fleet)
    (tmp_path / "base" / "config.json").write_text("{}")
    shapeless = await run(fleet)

    assert altered.code == shapeless.code == 1
    assert "sql.delta" in altered.errors
    assert "config.json" in shapeless.errors
    assert "Traceback" not in altered.errors + shapeless.errors


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [DEMO, "--model", "mistral-7b"],
        [DEMO, "--codec", "int8"],
        ["nowhere.yaml"],
        ["--model", "gpt-5"],
        ["--model", "mistral-7b", "--codec", "zip"],
        ["--model", "mistral-7b", "--codec", "int4:group_size=5"],
        ["--model", "mistral-7b", "--gpu", "b200"],
        ["--model", "mistral-7b", "--specialists", "0"],
    ],
)
async def test_wrong_usage_ends_with_2(arguments: list[object]) -> None:
    assert (await run(*arguments)).code == 2


def copy_of_demo(directory: Path, more: str) -> Path:
    """The demo fleet in a directory of its own, with more lines in its section `pool`."""
    shutil.copytree(DEMO.parent, directory, dirs_exist_ok=True)
    fleet = directory / "fleet.yaml"
    fleet.write_text(DEMO.read_text().replace("\npool:", f"\npool:{more}", 1))
    return fleet
