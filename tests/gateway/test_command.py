"""The deltafleet command as a person types it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from examples.demo.tasks import TASKS
from gateway.__main__ import MODULE_OF
from support.command import run
from support.fleet import DEMO, Fleet

PROMPT = TASKS["translation"].generate(random.Random(9)).prompt


async def test_ask_streams_the_answer(fleet: Fleet) -> None:
    ended = await run("ask", "--server", fleet.address, PROMPT)

    assert ended.code == 0
    assert ended.output.strip() == (await fleet.ask(PROMPT)).text.strip()
    assert "less than gpt-5-mini" in ended.errors


async def test_ask_json_is_one_object(fleet: Fleet) -> None:
    ended = await run("ask", "--json", "--server", fleet.address, PROMPT)
    answer = json.loads(ended.output)

    assert set(answer) == {
        *("model", "task", "similarity", "reason", "decided_by", "note"),
        *("text", "request_id", "prompt_token_count"),
        *("output_token_count", "cost_usd", "baseline_usd", "stale_baselines", "ttft_s", "total_s"),
    }
    assert answer["model"] == "translation"
    assert set(answer["baseline_usd"]) == {"gpt-5-mini", "claude-haiku-4-5"}
    assert 0 < answer["ttft_s"] <= answer["total_s"]


async def test_ask_with_a_model(fleet: Fleet) -> None:
    ended = await run("ask", "--json", "--server", fleet.address, "--model", "triage", PROMPT)
    assert json.loads(ended.output)["reason"] == "ROUTE_REASON_PINNED"


async def test_route_models_and_costs(fleet: Fleet) -> None:
    route = await run("route", "--server", fleet.address, "--json", PROMPT)
    models = await run("models", "--server", fleet.address, "--json")
    costs = await run("costs", "--server", fleet.address, "--json")

    assert json.loads(route.output)["model"] == "translation"
    assert {one["name"] for one in json.loads(models.output)["models"]} == {"base", *TASKS}
    assert json.loads(costs.output)["workers"]
    for command in ("models", "costs"):
        table = await run(command, "--server", fleet.address)
        assert table.code == 0
        assert "worker-0" in table.output


async def test_route_shows_what_was_weighed(fleet: Fleet) -> None:
    ended = await run("route", "--server", fleet.address, PROMPT)
    line = next(line for line in ended.output.splitlines() if "chosen" in line)

    assert ended.code == 0
    assert ended.output.startswith("translation: ")
    assert "translation" in line
    assert "yes" in line
    assert all(model in ended.output for model in ("base", *TASKS))


async def test_route_asks_within_limits(fleet: Fleet) -> None:
    asked = ("route", "--server", fleet.address, "--json")
    found = await run(*asked, "--min-quality", "0.5", "--max-cost-usd", "1.5", PROMPT)
    refused = await run(*asked, "--min-quality", "1", "--max-cost-usd", "0", "Who is Napoleon?")

    modest = await run(*asked, "--min-quality", "1", "--accept-less", "Who is Napoleon?")

    assert json.loads(modest.output)["reason"] == "ROUTE_REASON_BEST"
    qualify = [one["model"] for one in json.loads(found.output)["candidates"] if one["qualifies"]]
    assert qualify == ["translation"]
    assert refused.code == 1
    assert "ERROR_REASON_NO_MODEL_QUALIFIES" in refused.errors
    for wrong in ("--min-quality=2", "--max-cost-usd=-1", "--max-cost-usd=much"):
        assert (await run(*asked, wrong, PROMPT)).code == 2


async def test_ask_explains_beside_the_answer(fleet: Fleet) -> None:
    ended = await run("ask", "--explain", "--server", fleet.address, PROMPT)
    told = await run("ask", "--explain", "--json", "--server", fleet.address, PROMPT)

    assert ended.output.strip() == (await fleet.ask(PROMPT)).text.strip()
    assert "chosen" in ended.errors
    assert {one["model"] for one in json.loads(told.output)["candidates"]} == {"base", *TASKS}


async def test_a_refused_call_ends_with_1_and_its_reason(fleet: Fleet) -> None:
    ended = await run("ask", "--server", fleet.address, " ")
    assert ended.code == 1
    assert "ERROR_REASON_EMPTY_PROMPT" in ended.errors


async def test_no_server_ends_with_1() -> None:
    ended = await run("ask", "--server", "127.0.0.1:1", "hello")
    assert ended.code == 1
    assert "UNAVAILABLE" in ended.errors


@pytest.mark.parametrize("arguments", [["sing"], ["ask"], ["pack", "--base", "x"], ["up", "none"]])
async def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert (await run(*arguments)).code == 2


@pytest.mark.parametrize("command", sorted(MODULE_OF))
async def test_help_has_an_example(command: str) -> None:
    ended = await run(command, "--help")
    assert ended.code == 0
    assert f"Example: deltafleet {command}" in " ".join(ended.output.split())


async def test_check_reads_everything(tmp_path: Path) -> None:
    good = await run("check", DEMO)
    assert good.code == 0
    assert all(task in good.output for task in TASKS)

    (tmp_path / "fleet.yaml").write_text("base: {path: nowhere}\nspecialists: {}\n")
    bad = await run("check", tmp_path / "fleet.yaml")
    assert bad.code == 1
    assert "specialists" in bad.errors


async def test_up_refuses_what_cannot_be_served(tmp_path: Path) -> None:
    for text, place in (
        ("base: {path: nowhere}", "base.path"),
        ("base: {path: .}", "specialists.a.delta"),
        ("base: {path: .}\nrooting: {}", "rooting"),
    ):
        fleet = tmp_path / "fleet.yaml"
        specialist = "{description: d, delta: a.delta, examples: [e]}"
        fleet.write_text(f"{text}\nspecialists:\n  a: {specialist}\n")
        ended = await run("up", fleet)
        assert ended.code == 1
        assert place in ended.errors


async def test_up_refuses_an_address_that_is_taken(fleet: Fleet) -> None:
    ended = await run("up", DEMO, "--listen", fleet.address, "--metrics", "127.0.0.1:0")
    assert ended.code == 1
    assert "server.listen" in ended.errors

    ended = await run("up", DEMO, "--listen", "127.0.0.1:0", "--metrics", fleet.metrics)
    assert ended.code == 1
    assert f"server.metrics: cannot listen on {fleet.metrics}" in ended.errors


async def test_pack_inspect_unpack(tmp_path: Path) -> None:
    base, out = DEMO.parent / "base", tmp_path / "model"
    sql, delta, refused = DEMO.parent / "sql.delta", tmp_path / "again.delta", tmp_path / "refused"
    pack = ["pack", "--base", base, "--model", out]
    unpacked = await run("unpack", "--base", base, "--delta", sql, "--out", out)
    packed = await run(*pack, "--codec", "lossless", "--out", delta)
    described = await run("inspect", delta)

    assert (unpacked.code, packed.code, described.code) == (0, 0, 0)
    assert json.loads(described.output)["codec"] == "lossless"
    assert (await run(*pack, "--codec", "zip", "--out", refused)).code == 1
    assert not refused.exists()


async def test_a_delta_builds_on_a_delta(tmp_path: Path) -> None:
    base, sql = DEMO.parent / "base", DEMO.parent / "sql.delta"
    parent, chained, flat = (tmp_path / name for name in ("p.delta", "c.delta", "f.delta"))
    await run("unpack", "--base", base, "--delta", sql, "--out", tmp_path / "sql")
    model = ["--base", base, "--model", tmp_path / "sql", "--codec"]
    again = ["--base", base, "--delta", chained]
    for arguments in (
        ["pack", *model, "onebit", "--out", parent],
        ["pack", *model, "int8", "--parent", parent, "--out", chained],
        ["verify", *again],
        ["repack", *again, "--codec", "lossless", "--flatten", "--out", flat],
    ):
        ended = await run(*arguments)
        assert ended.code == 0, ended.errors

    told = [json.loads((await run("inspect", path)).output) for path in (chained, flat)]
    assert [one["builds_on"] for one in told] == [[str(parent)], []]
    for given, word in (
        (["int4", "--sensitivity", "spectrum"], "--max-bytes"),
        (["auto", "--max-bytes", 9**9, "--sensitivity", "prompts"], "--calibrate"),
    ):
        refused = await run("pack", *model, *given, "--out", tmp_path / "a.delta")
        assert refused.code == 2
        assert word in refused.errors


async def test_a_delta_is_exported_as_an_adapter(tmp_path: Path) -> None:
    base, sql = DEMO.parent / "base", DEMO.parent / "sql.delta"
    thin, adapter = tmp_path / "thin.delta", tmp_path / "sql.lora"
    given = ["--base", base, "--delta"]
    await run("repack", *given, sql, "--codec", "lowrank", "--out", thin)
    refused = await run("export-lora", *given, thin, "--out", adapter)
    dropped = await run("export-lora", *given, thin, "--out", adapter, "--drop")
    unpacked = await run("unpack", *given, adapter, "--out", tmp_path / "merged")

    assert (refused.code, dropped.code, unpacked.code) == (1, 0, 0), dropped.errors
    assert "norm" in refused.errors or "embed" in refused.errors
    assert "dropped: model.embed_tokens.weight" in dropped.errors
    assert "rank 16" in dropped.output


async def test_inspect_names_an_altered_payload(tmp_path: Path) -> None:
    base, out = DEMO.parent / "base", tmp_path / "again.delta"
    await run("pack", "--base", base, "--model", base, "--codec", "lossless", "--out", out)
    manifest = out / "delta.json"
    manifest.write_text(manifest.read_text().replace('"lossless"', '"losslesz"', 1))
    ended = await run("inspect", out)
    assert ended.code == 1
    assert "delta.json" in ended.errors
