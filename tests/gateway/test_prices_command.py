"""deltafleet prices as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from support.command import run

EXCERPT = Path(__file__).with_name("data") / "litellm_prices.json"


async def test_list_says_each_price_its_age_and_source() -> None:
    table = await run("prices", "list")
    listed = json.loads((await run("prices", "list", "--json")).output)["prices"]
    by_name = {one["price"]: one for one in listed}

    assert "openai/gpt-5-mini" in table.output
    assert "above 200,000" in table.output
    assert "rule of thumb" in table.output
    assert "genai-prices" in table.output
    assert by_name["openai/gpt-5-mini"]["input_usd_per_mtok"] == "0.25"
    assert by_name["openai/gpt-5-mini"]["batch"]["output_usd_per_mtok"] == "1"
    assert by_name["openai/gpt-5-mini"]["age_days"] >= 0


async def test_import_adds_to_a_file_and_old_prices_are_shown_as_stale(tmp_path: Path) -> None:
    out = tmp_path / "prices.yaml"
    first = ("prices", "import", EXCERPT, "--out", out, "--only", "gpt-5-mini")
    assert (await run(*first, "--as-of", "2020-02-03")).code == 0
    second = await run("prices", "import", EXCERPT, "--out", out, "--only", "claude-*")
    assert second.code == 0, second.errors
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        yaml.safe_dump(
            {
                "base": {"path": "base"},
                "specialists": {"sql": {"description": "d", "delta": "d", "examples": ["a"]}},
                "prices": {"file": "prices.yaml", "max_age_days": 100_000},
            }
        )
    )
    lenient = await run("prices", "list", "--json", "--fleet", fleet)
    fleet.write_text(fleet.read_text().replace("100000", "30"))
    strict = await run("prices", "list", "--json", "--fleet", fleet)
    table = await run("prices", "list", "--fleet", fleet)

    stale = {one["price"]: one["is_stale"] for one in json.loads(strict.output)["prices"]}
    assert stale["openai/gpt-5-mini"]
    assert set(stale) == {"openai/gpt-5-mini", "anthropic/claude-haiku-4-5"}
    assert not any(one["is_stale"] for one in json.loads(lenient.output)["prices"])
    assert "2020-02-03 STALE" in table.output


async def test_a_refused_import_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "prices.yaml"
    out.write_text("as_of: 2026-01-01\nsource: a page\nprices: {}\n")
    bad = tmp_path / "bad.json"
    bad.write_text(EXCERPT.read_text().replace("2.5e-07", "-2.5e-07"))
    ended = await run("prices", "import", bad, "--out", out)
    future = await run("prices", "import", EXCERPT, "--out", out, "--as-of", "2999-01-01")

    assert (ended.code, future.code) == (1, 1)
    assert "gpt-5-mini: input_usd_per_mtok" in ended.errors
    assert "yet to come" in future.errors
    assert out.read_text() == "as_of: 2026-01-01\nsource: a page\nprices: {}\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bad.json", "prices.yaml"]


async def test_import_names_what_a_pattern_found_and_left_out(tmp_path: Path) -> None:
    out = tmp_path / "prices.yaml"
    ended = await run(
        "prices", "import", EXCERPT, "--out", out, "--only", "gpt-*", "--only", "openai/*"
    )
    assert ended.code == 0
    assert "left out text-embedding-3-large: no chat model but embedding" in ended.errors
