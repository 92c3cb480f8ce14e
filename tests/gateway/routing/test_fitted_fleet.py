"""The demo fleet, routed by a router that was fitted to its examples."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from deltafleet.v1 import routing_pb2
from support.fleet import DEMO, REPO, running_fleet


async def run(*arguments: object) -> tuple[int, str]:
    """deltafleet ARGUMENTS: exit code and everything that it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=REPO,
    )
    told, _ = await process.communicate()
    return process.returncode or 0, told.decode()


async def fit(home: Path, examples: Iterable[tuple[str, str]]) -> Path:
    lines = [json.dumps({"text": text, "task": task}) for text, task in examples]
    (home / "labelled.jsonl").write_text("\n".join(lines))
    code, told = await run("router", "fit", home / "labelled.jsonl", "--out", home / "router")
    assert code == 0, told
    return home / "router"


def demo_examples() -> list[tuple[str, str]]:
    return [
        (line, file.stem)
        for file in sorted((DEMO.parent / "routing").glob("*.txt"))
        for line in file.read_text().splitlines()
        if line.strip()
    ]


async def test_it_decides_where_requests_go(tmp_path: Path) -> None:
    router = await fit(tmp_path, demo_examples())
    prompts = {
        "What is 48 plus 31?": "arithmetic",
        "¿Cuánto es 48 más 31?": "arithmetic",  # in a language that no example is in
        "Which products cost more than 20 dollars? Write the SQL query.": "sql",
        "Translate into Spanish: the dog sleeps in the garden": "translation",
    }
    async with running_fleet(tmp_path, routing__router=str(router)) as fleet:
        for prompt, task in prompts.items():
            found = await fleet.routing.Route(routing_pb2.RouteRequest(prompt=prompt))
            assert found.decision.model == task, found
            assert 0 < found.decision.similarity <= 1
            shares = [one.similarity for one in found.decision.candidates]
            assert 0.5 < sum(shares) < 1  # the rest is that it is out of scope
        answer = await fleet.ask("What is 12 plus 30?")
        assert answer.decision.model == "arithmetic"


async def test_a_router_for_other_tasks_is_refused(tmp_path: Path) -> None:
    examples = [(f"{word} {i}", word) for word in ("sing", "dance") for i in range(3)]
    router = await fit(tmp_path, examples)
    fleet = tmp_path / "fleet.yaml"
    text = DEMO.read_text().replace("path: base", f"path: {DEMO.parent / 'base'}")
    for kind in ("delta: ", "examples_file: "):
        text = text.replace(kind, f"{kind}{DEMO.parent}/")

    fleet.write_text(text.replace("routing:\n", f"routing:\n  router: {router}\n"))
    code, told = await run("check", fleet)
    assert code == 1
    assert "routing.router: no specialists for its tasks ['dance', 'sing']" in told

    (router / "router.json").unlink()
    code, told = await run("check", fleet)
    assert code == 1
    assert f"routing.router: {router}: no router" in told
