"""fleet.yaml changes while requests run: taken over whole, or refused whole."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import yaml

from deltafleet.v1 import fleet_pb2, inference_pb2, routing_pb2
from merge_on_load import manifest
from support.fleet import DEMO, REPO, first_text, refusal, rest, until
from support.live_fleet import Document, LiveFleet, live_fleet, small_fleet, write_whole

SUM = "What is 3 plus 4?"
WORDS = "Translate into Spanish: the red house"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveFleet]:
    document = small_fleet("arithmetic", "sql")
    async with live_fleet(tmp_path_factory.mktemp("live"), document) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def restored(live: LiveFleet) -> AsyncIterator[LiveFleet]:
    """What a test changes is changed back for the next one."""
    before = copy.deepcopy(live.document)
    yield live
    live.document = before
    live.write()
    await live.reload()


def set_at(*place: str, value: object) -> Callable[[Document], None]:
    """A change of one value."""

    def change(document: Document) -> None:
        for step in place[:-1]:
            document = document.setdefault(step, {})
        document[place[-1]] = value

    return change


def with_translation(document: Document) -> None:
    document["specialists"] |= small_fleet("translation")["specialists"]


async def test_a_new_specialist_answers_and_a_removed_one_is_unknown(restored: LiveFleet) -> None:
    live = restored
    assert (await refusal(live.fleet.ask(WORDS, model="translation"))).code.name == "NOT_FOUND"

    await live.change(with_translation)
    routed = await live.fleet.ask(WORDS)
    assert routed.decision.model == "translation"
    assert "casa" in routed.text
    models = await live.fleet.models.ListModels(fleet_pb2.ListModelsRequest())
    assert "translation" in [model.name for model in models.models]

    await live.change(lambda document: document["specialists"].pop("translation"))
    gone = await refusal(live.fleet.ask(WORDS, model="translation"))
    assert gone.reason == "ERROR_REASON_UNKNOWN_MODEL"
    assert (await live.fleet.ask(WORDS)).decision.model != "translation"


async def test_a_stream_ends_on_what_it_began_with(
    restored: LiveFleet, long_request: inference_pb2.GenerateRequest
) -> None:
    live = restored
    whole = "".join(
        event.text for event in await rest(live.fleet.inference.StreamGenerate(long_request))
    )
    call = live.fleet.inference.StreamGenerate(long_request)
    text = await first_text(call)
    await live.change(set_at("baselines", value={}))
    assert not (await live.fleet.ask(SUM)).summary.baselines, "who comes later goes by the new one"
    events = await rest(call)
    assert text + "".join(event.text for event in events) == whole
    summary = events[-1].summary
    assert {one.baseline for one in summary.baselines} == {"gpt-5-mini", "claude-haiku-4-5"}


WRONG: dict[str, tuple[Callable[[Document], Any], str]] = {
    "unknown key": (set_at("routing", "fallbck", value="base"), "routing.fallbck"),
    "dangling model": (set_at("routing", "fallback", value="poetry"), "poetry"),
    "no such delta": (set_at("specialists", "sql", "delta", value="/nowhere"), "/nowhere"),
    "no such price": (set_at("baselines", "gpt-5-mini", "price", value="none"), "none"),
    "another base": (set_at("specialists", "sql", "delta", value="other.delta"), "belongs to base"),
    "not live": (
        set_at("ledger", "retry_s", value=7),
        "ledger.retry_s: changed only by a restart of the gateway",
    ),
    "not live either": (
        set_at("pool", "memory_budget_mib", value=1000),
        "pool.memory_budget_mib: changed only by a restart of the gateway and its workers",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_refused_whole(restored: LiveFleet, name: str) -> None:
    live = restored
    _delta_of_another_base(live.path.parent / "other.delta")
    before = live.metric('deltafleet_config_reloads_total{outcome="refused"}')
    info = _info(live)

    def change(document: Document) -> None:
        with_translation(document)  # right in itself
        WRONG[name][0](document)

    live.write(change)
    told = await refusal(live.reload())
    by_command = await _reload_command(live)

    assert by_command[0] == 1
    assert told.message in by_command[1]
    assert told.code is grpc.StatusCode.FAILED_PRECONDITION
    assert told.reason == "ERROR_REASON_CONFIG_REFUSED"
    assert WRONG[name][1] in told.message
    assert live.metric('deltafleet_config_reloads_total{outcome="refused"}') > before
    assert _info(live) == info
    assert (await live.fleet.ask(SUM)).decision.model == "arithmetic"
    missing = await refusal(live.fleet.ask(WORDS, model="translation"))
    assert missing.reason == "ERROR_REASON_UNKNOWN_MODEL", "nothing of a wrong file is taken over"


async def test_what_is_no_yaml_is_refused(restored: LiveFleet) -> None:
    live = restored
    count = len(live.logged("config_refused"))
    write_whole(live.path, "base: {path: [")
    assert "not YAML" in (await refusal(live.reload())).message
    assert "not YAML" in (await live.until_logged("config_refused", count + 1))["reason"]
    assert (await live.fleet.ask(SUM)).decision.model == "arithmetic"


async def until_changed(live: LiveFleet, names: list[str], count: int) -> None:
    """Return when it has taken over these changes, after its first `count` lines of that. The
    change before may be seen once more meanwhile: by who watches the file.
    """

    async def is_told() -> bool:
        return any(one["changed"] == names for one in live.logged("config_applied")[count:])

    await until(is_told)


async def test_the_file_is_read_again_when_it_has_changed_and_on_sighup(
    restored: LiveFleet,
) -> None:
    live = restored
    count, info = len(live.logged("config_applied")), _info(live)
    live.write(set_at("routing", "min_quality", value=0.3))
    await until_changed(live, ["routing.min_quality"], count)
    assert _info(live) != info

    count = len(live.logged("config_applied"))
    live.fleet.process.send_signal(signal.SIGHUP)
    await live.until_logged("config_applied", count + 1)

    code, told = await _reload_command(live)
    assert code == 0
    assert told.removeprefix("in force: ").strip() in _info(live)[0]


async def test_a_prices_file_counts_too(restored: LiveFleet) -> None:
    live = restored
    prices = live.path.parent / "prices.yaml"
    built_in = yaml.safe_load((DEMO.parents[2] / "gateway" / "prices.yaml").read_text())
    write_whole(prices, yaml.safe_dump(built_in))
    await live.change(set_at("prices", "file", value=str(prices)))
    before = (await live.fleet.ask(SUM)).summary
    count = len(live.logged("config_applied"))

    ours = built_in["prices"]["openai/gpt-5-mini"]
    ours["output_usd_per_mtok"] = str(100 * float(ours["output_usd_per_mtok"]))
    write_whole(prices, yaml.safe_dump(built_in))
    await until_changed(live, ["named files"], count)
    after = (await live.fleet.ask(SUM)).summary
    cost = {
        name: {one.baseline: one.cost_nano_usd for one in summary.baselines}
        for name, summary in (("before", before), ("after", after))
    }
    assert cost["after"]["gpt-5-mini"] > 10 * cost["before"]["gpt-5-mini"]
    assert cost["after"]["claude-haiku-4-5"] == cost["before"]["claude-haiku-4-5"]


async def test_callers_and_limits_change(restored: LiveFleet) -> None:
    live = restored
    asked = routing_pb2.RouteRequest(prompt=SUM)
    as_report = (("deltafleet-caller", "report"),)

    def change(document: Document) -> None:
        document["callers"] = {"report": {"min_quality": 1.0}}
        document.setdefault("server", {})["max_message_bytes"] = 2048

    await live.change(change)
    told = await refusal(live.fleet.routing.Route(asked, metadata=as_report))
    assert told.reason == "ERROR_REASON_NO_MODEL_QUALIFIES", "nobody is as good as it asks"
    assert (await live.fleet.routing.Route(asked)).decision.model == "arithmetic"
    large = await refusal(live.fleet.ask("x" * 4000))
    assert large.reason == "ERROR_REASON_MESSAGE_TOO_LARGE"


async def test_no_request_fails_while_the_file_changes_under_load(restored: LiveFleet) -> None:
    """Specialists come and go; those that are asked for by name stay."""
    live = restored
    answered, is_over = [], asyncio.Event()

    async def ask_on(prompt: str, **fields: object) -> None:
        while not is_over.is_set():
            answered.append(await live.fleet.ask(prompt, max_output_token_count=8, **fields))

    clients = [
        asyncio.create_task(ask_on(prompt, **fields))
        for prompt, fields in [(SUM, {}), (WORDS, {}), (SUM, {"model": "sql"}), (WORDS, {})] * 2
    ]
    try:
        for number in range(6):
            await live.change(
                (lambda document: document["specialists"].pop("translation"))
                if number % 2
                else with_translation
            )
            count = len(answered)

            async def is_asked_on(count: int = count) -> bool:
                return len(answered) >= count + 2 * len(clients) or any(c.done() for c in clients)

            await until(is_asked_on)
    finally:
        is_over.set()
        await asyncio.gather(*clients)  # raises where a request failed
    models = {answer.decision.model for answer in answered}
    assert {"arithmetic", "translation", "sql"} <= models


async def test_a_worker_more_and_a_worker_less(restored: LiveFleet) -> None:
    live = restored
    workers = copy.deepcopy(live.document["pool"]["workers"])
    await live.change(set_at("pool", "workers", value=[*workers, {"name": "worker-1"}]))

    async def is_up() -> bool:
        return live.metric('deltafleet_worker_up{worker="worker-1"}') == 1

    await until(is_up)
    assert len(live.fleet.worker_pids()) == 2
    await live.change(set_at("pool", "workers", value=workers))

    async def is_gone() -> bool:
        return len(live.fleet.worker_pids()) == 1

    await until(is_gone)
    assert live.metric('deltafleet_worker_up{worker="worker-1"}') == 0
    assert (await live.fleet.ask(SUM)).summary.worker == "worker-0"


async def test_a_worker_that_dies_starts_on_what_is_in_force(restored: LiveFleet) -> None:
    live = restored
    await live.change(with_translation)
    live.write(lambda document: document.update(rooting={}))
    assert "rooting" in (await refusal(live.reload())).message
    [worker] = live.fleet.worker_pids()
    os.kill(worker, signal.SIGKILL)
    answer = await live.fleet.ask(WORDS, model="translation")
    assert "casa" in answer.text
    assert live.fleet.worker_pids() != [worker]


async def _reload_command(live: LiveFleet) -> tuple[int, str]:
    """The exit code, and all that was said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "reload", "--server", live.fleet.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=REPO,
    )
    told, _ = await process.communicate()
    return process.returncode or 0, told.decode()


def _info(live: LiveFleet) -> list[str]:
    return [one for one in live.metric_lines() if one.startswith("deltafleet_config_info")]


def _delta_of_another_base(directory: Path) -> None:
    """The demo's own, with another fingerprint in its manifest."""
    if not directory.is_dir():
        shutil.copytree(DEMO.parent / "sql.delta", directory)
        file = directory / "delta.json"
        found, _ = manifest.parse(file.read_bytes(), file)
        file.write_bytes(manifest.render(dataclasses.replace(found, base_fingerprint="0" * 64))[0])
