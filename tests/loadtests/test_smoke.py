"""The smoke scenario as `make load SCENARIO=smoke` runs it: what was sent is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loadtests.scenario import load_scenario
from loadtests.schedule import arrivals
from support.fleet import REPO


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run with two locust workers."""
    directory = tmp_path_factory.mktemp("smoke")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests", "run", "smoke"),
        *("--workers", "2", "--out", str(directory)),
        cwd=REPO,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return directory


def report(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return found


async def test_every_scheduled_request_was_sent_and_ended(smoke: Path) -> None:
    scenario = load_scenario("smoke")
    scheduled = arrivals([one.arrivals.stages for one in scenario.traffic], scenario.seed)
    whole = report(smoke)["all"]

    assert whole["sent"] == len(scheduled)
    assert whole["sent"] == whole["answered"] + sum(whole["errors"].values())
    assert {one["name"] for one in [report(smoke)]} == {"smoke"}


async def test_the_ledger_has_each_request_once(smoke: Path) -> None:
    with contextlib.closing(sqlite3.connect(smoke / "ledger.sqlite3")) as ledger:
        rows = ledger.execute(
            "select outcome, count(*), sum(cost_nano_usd) from requests where caller = 'load' "
            "group by outcome"
        ).fetchall()
    found = report(smoke)

    assert rows == [("answered", found["all"]["sent"], found["all"]["cost_nano_usd"])]
    assert found["ledger"]["requests"] == found["all"]["sent"]


async def test_money_is_the_same_wherever_it_is_told(smoke: Path) -> None:
    found = report(smoke)
    whole = found["all"]

    assert whole["cost_nano_usd"] > 0
    for place in ("gateways", "ledger"):
        assert found[place]["requests"] == whole["sent"]
        assert found[place]["cost_nano_usd"] == whole["cost_nano_usd"]
        assert found[place]["baselines_nano_usd"] == whole["baselines_nano_usd"]
    assert sum(one["cost_nano_usd"] for one in found["prices"].values()) == whole["cost_nano_usd"]


async def test_both_locust_workers_sent_and_locust_counted(smoke: Path) -> None:
    shares = [len(path.read_text().splitlines()) for path in sorted(smoke.glob("records-*"))]
    log = (smoke / "locust.log").read_text()
    whole = report(smoke)["all"]

    assert sum(shares) == whole["sent"]
    assert len(shares) == 2
    assert min(shares) > 0
    for line in ("time to first token", "total latency", "right specialist", "at gpt-5-mini"):
        assert line in log


async def test_the_page_is_there_and_says_that_limits_hold(smoke: Path) -> None:
    page = (smoke / "report.html").read_text()

    assert "limits hold" in page
    assert page.count("<svg") == 4
