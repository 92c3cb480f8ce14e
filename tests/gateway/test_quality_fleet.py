"""A fleet that learned what its models are good at, through the real door and command."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from deltafleet.v1 import routing_pb2
from support.command import run
from support.fleet import DEMO, Fleet, refusal, running_fleet

THINGS = ["pens", "cups", "hats", "keys", "lamps", "books", "chairs", "maps", "bells", "coins"]
SQL = "Which products cost more than 20 dollars? Write the SQL query."


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def quality(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three of the demo's models: base is right on a third, sql on most, triage on all."""
    home = tmp_path_factory.mktemp("outcomes")
    lines = [
        {
            "prompt": f"Write the SQL query that finds all {thing} cheaper than {price} dollars.",
            "scores": {"base": float(price < 20), "sql": float(price < 40), "triage": 1.0},
            "cost_usd": {"base": 1e-6, "sql": 2e-6, "triage": 3e-6},
        }
        for thing in THINGS
        for price in (10, 30, 50)
    ]
    (home / "outcomes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ended = await run("router", "fit-quality", home / "outcomes.jsonl", "--out", home / "quality")
    assert ended.code == 0, ended.errors
    return home / "quality"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def choosy(quality: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    home = tmp_path_factory.mktemp("choosy")
    settings = {"routing__quality": str(quality), "routing__min_quality": 0.0}
    async with running_fleet(home, **settings) as running:
        yield running


async def decide(fleet: Fleet, **constraints: object) -> routing_pb2.Decision:
    request = routing_pb2.RouteRequest(
        prompt=SQL, constraints=routing_pb2.Constraints(**constraints)
    )
    return (await fleet.routing.Route(request)).decision


async def test_qualities_and_costs_are_the_learned_ones(choosy: Fleet) -> None:
    told = {one.model: one for one in (await decide(choosy)).candidates}
    assert 0.1 < told["base"].quality < told["sql"].quality < told["triage"].quality
    assert told["sql"].quality < 0.97  # fleet.yaml says 0.978
    assert told["translation"].quality == 0  # nothing is known of it on such a prompt
    assert not told["translation"].qualifies
    assert told["triage"].expected_cost_nano_usd == pytest.approx(3000, rel=0.1)


async def test_the_cheapest_that_is_good_enough_answers(choosy: Fleet) -> None:
    chosen = [
        (found.model, found.reason)
        for quality in (0.05, 0.5, 0.99)
        for found in [await decide(choosy, min_quality=quality)]
    ]
    cheapest = routing_pb2.ROUTE_REASON_CHEAPEST
    assert chosen == [("base", cheapest), ("sql", cheapest), ("triage", cheapest)]


async def test_the_best_within_the_cost_where_asked(choosy: Fleet) -> None:
    limit = {"min_quality": 1.0, "max_cost_nano_usd": 2500}
    found = await decide(choosy, **limit, accepts_less=True)
    assert (found.model, found.reason) == ("sql", routing_pb2.ROUTE_REASON_BEST)
    failure = await refusal(decide(choosy, **limit))
    assert failure.reason == "ERROR_REASON_NO_MODEL_QUALIFIES"


async def test_estimates_of_another_encoder_refuse_to_start(quality: Path, tmp_path: Path) -> None:
    other = shutil.copytree(quality, tmp_path / "other")
    told = json.loads((other / "quality.json").read_text())
    ours, told["facts"]["encoder_digest"] = told["facts"]["encoder_digest"], "0123456789abcdef"
    (other / "quality.json").write_text(json.dumps(told))
    text = DEMO.read_text()
    for kind in ("path: base", "delta: ", "examples_file: "):
        text = text.replace(kind, kind.replace(": ", f": {DEMO.parent}/"))
    routing = f"routing:\n  min_quality: 0.5\n  quality: {other}\n"
    (tmp_path / "fleet.yaml").write_text(text.replace("routing:\n", routing))

    ended = await run("up", tmp_path / "fleet.yaml", "--listen", "127.0.0.1:0")

    assert ended.code == 1
    assert f"fitted with the encoder 0123456789abcdef, and the router with {ours}" in ended.errors


async def test_check_reads_the_qualities(quality: Path, tmp_path: Path) -> None:
    text = DEMO.read_text()
    for kind in ("path: base", "delta: ", "examples_file: "):
        text = text.replace(kind, kind.replace(": ", f": {DEMO.parent}/"))
    fleet = tmp_path / "fleet.yaml"

    async def checked(routing: str) -> str:
        fleet.write_text(text.replace("routing:\n", f"routing:\n  min_quality: 0.5\n{routing}"))
        ended = await run("check", fleet)
        return ended.errors if ended.code else ""

    assert await checked(f"  quality: {quality}\n") == ""
    assert "routing.quality" in await checked(f"  quality: {tmp_path}\n")
    strange = shutil.copytree(quality, tmp_path / "strange") / "quality.json"
    for model in ("base", "sql", "triage"):
        strange.write_text(strange.read_text().replace(f'"{model}"', f'"other-{model}"'))
    assert "no models for its ['other-base'" in await checked(f"  quality: {strange.parent}\n")
