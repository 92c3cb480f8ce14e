"""Costs through the real door: by any dimension, over any time, in every form."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import random
import urllib.request
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deltafleet.v1 import cost_pb2, inference_pb2
from examples.demo.tasks import TASKS
from support.command import run
from support.fleet import Fleet, refusal, running_fleet

PROMPT = TASKS["sql"].generate(random.Random(3)).prompt


async def report(fleet: Fleet, *by: str) -> cost_pb2.GetCostReportResponse:
    """All costs so far."""
    return await fleet.costs.GetCostReport(cost_pb2.GetCostReportRequest(by=by))


@pytest.mark.parametrize(
    "by", [("model",), ("task",), ("caller",), ("day",), ("model", "task", "caller", "day")]
)
async def test_every_grouping_sums_to_the_same(fleet: Fleet, by: tuple[str, ...]) -> None:
    await fleet.ask(PROMPT)
    found = await report(fleet, *by)

    assert found.groups
    assert all(set(group.key) == set(by) for group in found.groups)
    assert found.total.request_count == sum(one.request_count for one in found.groups)
    assert found.total.cost_nano_usd == sum(one.cost_nano_usd for one in found.groups)
    effective = sum(one.effective_cost_nano_usd for one in found.groups)
    assert effective + found.unallotted_nano_usd == found.total.effective_cost_nano_usd
    assert found.total.overhead_nano_usd > 0


async def test_what_computed_nothing_is_told_by_its_kind(fleet: Fleet) -> None:
    await fleet.ask(PROMPT)
    found = await report(fleet)
    command = ("costs", "--server", fleet.address)
    table = (await run(*command)).output
    text = (await run(*command, "--format", "csv")).output

    for one in (*found.groups, found.total):
        parts = (one.loading_nano_usd, one.switching_nano_usd, one.idle_nano_usd)
        assert one.overhead_nano_usd == sum(parts)
    for life in found.workers:
        assert life.uptime_cost_nano_usd == (
            life.busy_cost_nano_usd
            + life.load_cost_nano_usd
            + life.switch_cost_nano_usd
            + life.idle_cost_nano_usd
        )
        assert life.load_s > 0 == life.switch_s, "it holds many sets of weights"
    assert "USD = requests 0." in table and "+ switching 0.00000000 + idle 0." in table
    for row in csv.DictReader(io.StringIO(text)):
        kinds = (Decimal(row[f"{kind}_usd"]) for kind in ("loading", "switching", "idle"))
        assert Decimal(row["overhead_usd"]) == sum(kinds)


async def test_a_caller_sees_what_it_spent(fleet: Fleet) -> None:
    request = inference_pb2.GenerateRequest(prompt=PROMPT)
    answer = await fleet.inference.Generate(
        request, metadata=[("deltafleet-caller", "the-costs-test")]
    )
    groups = (await report(fleet, "caller")).groups
    mine = next(one for one in groups if one.key["caller"] == "the-costs-test")

    assert (mine.request_count, mine.answered_count) == (1, 1)
    assert mine.cost_nano_usd == answer.summary.cost_nano_usd
    theirs = {one.baseline: one.cost_nano_usd for one in mine.baselines}
    assert theirs == {one.baseline: one.cost_nano_usd for one in answer.summary.baselines}


async def test_a_group_is_compared_with_every_baseline(fleet: Fleet) -> None:
    await fleet.ask(PROMPT)
    found = await report(fleet)
    sql = next(one for one in found.groups if one.key["model"] == "sql")

    assert [one.baseline for one in sql.baselines] == ["claude-haiku-4-5", "gpt-5-mini"]
    for theirs in sql.baselines:
        assert theirs.saving_nano_usd == theirs.cost_nano_usd - sql.cost_nano_usd
        assert theirs.HasField("break_even_requests_per_day") is not theirs.never_breaks_even
    assert sql.busy_time.ToMicroseconds() > 0
    assert sql.nano_usd_per_mtok < sql.nano_usd_per_mtok_output
    assert sql.nano_usd_per_mtok_output < sql.effective_nano_usd_per_mtok_output


async def test_a_baseline_says_how_its_charges_are_estimated(fleet: Fleet) -> None:
    baselines = {one.baseline: one for one in (await report(fleet)).baselines}
    theirs, thumb = baselines["gpt-5-mini"], baselines["claude-haiku-4-5"]

    assert (thumb.tokenizer, thumb.characters_per_token) == ("", "3.5")
    assert thumb.characters_per_token_is == "rule of thumb"
    assert theirs.price == "openai/gpt-5-mini"
    assert (theirs.input_usd_per_mtok, theirs.output_usd_per_mtok) == ("0.25", "2")
    assert theirs.tokenizer == "o200k_base"
    assert (theirs.cached_input_share, theirs.reasoning_multiplier) == ("0", "1")
    assert datetime.fromisoformat(theirs.as_of) <= datetime.now()
    assert theirs.source


@pytest.mark.parametrize(
    ("by", "reason"),
    [(["month"], "'month' is none of model"), (["task", "task"], "the same twice")],
)
async def test_an_unknown_grouping_is_refused(fleet: Fleet, by: list[str], reason: str) -> None:
    failure = await refusal(fleet.costs.GetCostReport(cost_pb2.GetCostReportRequest(by=by)))
    assert failure.reason == "ERROR_REASON_INVALID_PARAMETER"
    assert failure.metadata["field"] == "by"
    assert reason in failure.message


async def test_the_command_shows_tables(fleet: Fleet) -> None:
    await fleet.ask(PROMPT)
    ended = await run("costs", "--server", fleet.address, "--by", "task,day")

    assert ended.code == 0, ended.errors
    assert "gpt-5-mini: openai/gpt-5-mini as of" in ended.output
    assert "tokens counted with o200k_base" in ended.output
    assert "3.5 characters per token (rule of thumb)" in ended.output
    assert datetime.now(UTC).date().isoformat() in ended.output


async def test_csv_has_every_amount_to_the_last_nano_dollar(fleet: Fleet) -> None:
    await fleet.ask(PROMPT)
    command = ("costs", "--server", fleet.address, "--by", "model,day")
    text = (await run(*command, "--format", "csv")).output
    told = json.loads((await run(*command, "--format", "json")).output)
    rows = list(csv.DictReader(io.StringIO(text)))

    assert [row["model"] for row in rows] == [one["key"]["model"] for one in told["groups"]]
    for row, group in zip(rows, told["groups"], strict=True):
        assert Decimal(row["cost_usd"]) * 10**9 == int(group["cost_nano_usd"])
        saved = {one["baseline"]: int(one["saving_nano_usd"]) for one in group["baselines"]}
        for name, nano_usd in saved.items():
            assert Decimal(row[f"{name}_saving_usd"]) * 10**9 == nano_usd
            assert row[f"{name}_price_is_stale"] == "false"
        assert row["gpt-5-mini_break_even_requests_per_day"] == ""


async def test_a_time_is_cut_out(fleet: Fleet) -> None:
    await fleet.ask(PROMPT)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    command = ("costs", "--json", "--server", fleet.address)
    before = json.loads((await run(*command, "--to", tomorrow)).output)
    after = json.loads((await run(*command, "--from", f"{tomorrow}T00:00+00:00")).output)

    assert int(before["total"]["request_count"]) > 0
    assert after["groups"] == []
    assert after["total"]["effective_cost_nano_usd"] == "0"


async def test_wrong_times_and_groupings_are_refused(fleet: Fleet) -> None:
    command = ("costs", "--server", fleet.address)
    assert (await run(*command, "--from", "yesterday")).code == 2
    backwards = await run(*command, "--from", "2026-02-01", "--to", "2026-01-01")
    unknown = await run(*command, "--by", "model,month")

    assert (backwards.code, unknown.code) == (1, 1)
    assert "not after start_time" in backwards.errors
    assert "'month' is none of" in unknown.errors


async def test_a_stale_price_is_flagged_wherever_it_is_shown(tmp_path: Path) -> None:
    # The built-in prices of another day, which is long ago.
    prices = tmp_path / "prices.yaml"
    built_in = Path(cost_pb2.__file__).parents[4] / "gateway" / "prices.yaml"
    lines = built_in.read_text().splitlines()
    prices.write_text(
        "\n".join("as_of: 2020-01-01" if one.startswith("as_of") else one for one in lines)
    )
    async with running_fleet(tmp_path, prices__file=str(prices)) as fleet:
        answer = await fleet.ask(PROMPT)
        asked = await run("ask", "--server", fleet.address, PROMPT)
        page = await asyncio.to_thread(_read, f"http://{fleet.metrics}/metrics")
        found = await report(fleet)
        table = await run("costs", "--server", fleet.address)
        text = (await run("costs", "--server", fleet.address, "--format", "csv")).output

    ages = {
        sample.labels["baseline"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "deltafleet_price_age_seconds"
    }
    since = datetime.now(UTC) - datetime(2020, 1, 1, tzinfo=UTC)
    assert set(ages) == {"claude-haiku-4-5", "gpt-5-mini"}
    assert all(0 < since.total_seconds() - age < 3600 for age in ages.values())
    assert answer.summary.baselines
    assert "less than gpt-5-mini (STALE price)" in asked.errors
    assert all(one.price_is_stale for one in answer.summary.baselines)
    assert all(one.price_is_stale and one.age_days > 365 for one in found.baselines)
    assert all(one.price_is_stale for one in found.groups[0].baselines)
    assert "as of 2020-01-01 (STALE)" in table.output
    assert next(csv.DictReader(io.StringIO(text)))["gpt-5-mini_price_is_stale"] == "true"


def _read(url: str) -> str:
    with urllib.request.urlopen(url) as page:
        return page.read().decode()
