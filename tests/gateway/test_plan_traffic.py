"""deltafleet plan --traffic: accelerators, placement, money."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from support.fleet import DEMO, running_fleet
from support.plan_command import planned, run

A_YEAR_USD = 15_000


async def test_one_a10g_serves_a_7b_specialist_for_15_000_usd_a_year_or_less() -> None:
    found = await planned(
        "--model", "mistral-7b", "--specialists", 1, "--gpu", "a10g", "--traffic", 20_000
    )
    a10g = found["accelerators"]["a10g"]

    assert (a10g["count"], a10g["usd_per_hour"]) == (1, "1.006")
    hours_usd = Decimal("1.006") * 8760
    assert hours_usd * Decimal("1.25") < Decimal(a10g["usd_per_year"]) <= A_YEAR_USD
    haiku = a10g["baselines"]["anthropic/claude-haiku-4-5"]
    # 500 tokens at 1 and 200 at 5 USD per million, 20,000 times a day.
    assert Decimal(haiku["usd_per_month"]) == pytest.approx(Decimal("912.5"))
    paid_from = Decimal(a10g["usd_per_month"]) / Decimal("0.0015") / (Decimal(365) / 12)
    assert haiku["break_even_requests_per_day"] == pytest.approx(float(paid_from), rel=1e-3)


async def test_the_cheapest_accelerators_come_first_and_prices_may_be_said() -> None:
    traffic = ("--model", "mistral-7b", "--specialists", 20, "--traffic", 20_000)
    found = await planned(*traffic, "--usd-per-hour", "h100=0.01")
    assert next(iter(found["accelerators"])) == "h100"
    assert found["accelerators"]["h100"]["price_source"] == "--usd-per-hour"
    for one in found["accelerators"].values():
        assert len(one["placement"]) == one["count"]
        assert sum(len(place["models"]) for place in one["placement"]) >= 20


async def test_a_traffic_file_says_who_is_asked_how_much(tmp_path: Path) -> None:
    (tmp_path / "traffic.yaml").write_text(
        "peak_factor: 2\nprompt_tokens: 300\n"
        "models: {sql: 90, triage: {requests_per_day: 10, output_tokens: 5}, base: 0}\n"
    )
    found = await planned(DEMO, "--traffic", tmp_path / "traffic.yaml")
    assert (found["requests_per_day"], found["peak_factor"]) == (100, 2)
    a10 = found["accelerators"]["a10"]
    assert sorted(a10["placement"][0]["models"]) == ["base", "sql", "triage"]
    assert sorted(a10["baselines"]) == ["claude-haiku-4-5", "gpt-5-mini"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models: {}", "models"),
        ("models: {sql: -1}", "models.sql"),
        ("models: {poems: 5}", "the fleet has no poems"),
        ("models: {sql: 0}", "no requests at all"),
        ("models: {sql: 5}\nsize: 3", "size"),
        ("- sql", "traffic.yaml"),
    ],
)
async def test_traffic_that_makes_no_sense_is_refused(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "traffic.yaml").write_text(text)
    ended = await run(DEMO, "--traffic", tmp_path / "traffic.yaml")
    assert ended.code != 0
    assert reason in ended.errors


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--traffic", "nowhere.yaml"), "nowhere.yaml"),
        (("--traffic", "-5"), "not -5 requests a day"),
        (("--traffic", "ledger"), "a ledger is FLEET's"),
        (("--traffic", "5", "--usd-per-hour", "h100=free"), "not GPU=USD"),
        (("--traffic", "5", "--usd-per-hour", "tpu=1"), "not GPU=USD"),
        (("--traffic", "5", "--baseline", "a/b"), "no a/b"),
        (("--traffic", "5", "--plot", "plot.words"), "--plot"),
    ],
)
async def test_a_wrong_option_is_refused(arguments: tuple[str, ...], reason: str) -> None:
    ended = await run("--model", "mistral-7b", *arguments)
    assert ended.code != 0
    assert reason in ended.errors


async def test_a_fleets_own_ledger_says_what_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_fleet(tmp_path) as fleet:
        for _ in range(3):
            await fleet.ask("Write SQL: which customers spent more than 100?", model="sql")
    monkeypatch.setenv("DELTAFLEET_LEDGER__PATH", str(fleet.ledger))
    found = await planned(DEMO, "--traffic", "ledger", "--days", 1)
    assert found["requests_per_day"] == 3
    assert found["accelerators"]["h100"]["placement"][0]["models"] == ["sql"]


async def test_a_fleet_without_a_ledger_yet_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTAFLEET_LEDGER__PATH", str(tmp_path / "none.sqlite3"))
    ended = await run(DEMO, "--traffic", "ledger")
    assert ended.code != 0
    assert "there is no ledger yet" in ended.errors


async def test_the_plot_has_ours_and_theirs(tmp_path: Path) -> None:
    path = tmp_path / "costs.svg"
    ended = await run("--model", "mistral-7b", "--gpu", "h100", "--traffic", 20_000, "--plot", path)
    assert ended.code == 0, ended.errors
    assert "3 USD an hour" in ended.output
    assert path.read_bytes().startswith(b"<?xml")
