"""Workers that read fleet.yaml again: their specialists come, change and go while requests run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml

from support.fleet import DEMO, refusal, until
from support.live_fleet import Document, LiveFleet, events_of, live_fleet, small_fleet, worker_of

SUM = "What is 3 plus 4?"
WORDS = "Translate into Spanish: the red house"


async def test_changed_weights_answer_under_their_own_digest(tmp_path: Path) -> None:
    async with live_fleet(tmp_path, small_fleet("arithmetic", "sql")) as live:
        before = await live.fleet.ask(SUM, model="sql")

        def change(document: Document) -> None:
            delta = str(DEMO.parent / "arithmetic.delta")
            document["specialists"]["sql"]["delta"] = delta

        await live.change(change)
        after = await live.fleet.ask(SUM, model="sql")
        same = await live.fleet.ask(SUM, model="arithmetic")
        assert after.summary.weights_digest == same.summary.weights_digest
        assert after.summary.weights_digest != before.summary.weights_digest
        assert after.text == same.text
        applied = await live.until_logged("catalog_applied", 1)
        assert applied["changed"] == ["sql"]


async def test_what_left_leaves_memory_when_its_time_is_over(tmp_path: Path) -> None:
    async with live_fleet(tmp_path, small_fleet("arithmetic", "sql"), pool__linger_s=0.0) as live:
        await live.fleet.ask(SUM, model="sql")

        async def is_there() -> bool:
            return _is_loaded(live, "sql")

        await until(is_there)  # a worker tells what it holds a moment after the answer
        await live.change(lambda document: document["specialists"].pop("sql"))

        async def is_gone() -> bool:
            return not _is_loaded(live, "sql")

        await until(is_gone)
        assert (await live.fleet.ask(SUM)).decision.model == "arithmetic"


@pytest.mark.timeout(600)
async def test_a_worker_elsewhere_reads_its_own_file_again(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'far'}.sock"
    document = small_fleet("arithmetic", "sql")
    document["pool"]["workers"] = [{"name": "far", "address": address}]
    lines: list[str] = []
    async with (
        live_fleet(tmp_path, document, awaits_workers=False) as live,
        worker_of(tmp_path / "fleet.yaml", "far", address, lines) as worker,
    ):
        await live.fleet.until_serving()
        translation = small_fleet("translation")["specialists"]
        live.write(lambda document: document["specialists"].update(translation))
        await live.until_logged("config_applied", 1)
        answer = await live.fleet.ask(WORDS, model="translation")  # maybe before the worker
        assert "casa" in answer.text

        broken = tmp_path / "broken.delta"
        broken.mkdir()
        live.write(lambda document: document["specialists"]["sql"].update(delta=str(broken)))

        async def is_refused() -> bool:
            return bool(events_of(lines, "catalog_refused"))

        await until(is_refused)
        assert "broken.delta" in events_of(lines, "catalog_refused")[-1]["reason"]
        assert (await live.fleet.ask(SUM, model="sql")).summary.weights_digest

        count = len(events_of(lines, "catalog_refused"))
        worker.send_signal(signal.SIGHUP)

        async def is_refused_again() -> bool:
            return len(events_of(lines, "catalog_refused")) > count

        await until(is_refused_again)


async def test_a_specialist_that_no_worker_has_heard_of_is_waited_for(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'far'}.sock"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    document = small_fleet("arithmetic")
    document["pool"] |= {"workers": [{"name": "far", "address": address}], "worker_wait_s": 0.5}
    (theirs / "fleet.yaml").write_text(yaml.safe_dump(document))
    async with (
        live_fleet(tmp_path, document, awaits_workers=False) as live,
        worker_of(theirs / "fleet.yaml", "far", address, []),
    ):
        await live.fleet.until_serving()
        await live.change(
            lambda document: document["specialists"].update(
                small_fleet("translation")["specialists"]
            )
        )
        told = await refusal(live.fleet.ask(WORDS, model="translation"))
        assert told.reason == "ERROR_REASON_NO_WORKER_READY", "it may still come"
        assert told.retry_after_s > 0
        assert (await live.fleet.ask(SUM)).decision.model == "arithmetic"


def _is_loaded(live: LiveFleet, model: str) -> bool:
    start = f'deltafleet_model_loaded_bytes{{model="{model}",worker="worker-0"}}'
    other = f'deltafleet_model_loaded_bytes{{worker="worker-0",model="{model}"}}'
    return any(line.startswith((start, other)) for line in live.metric_lines())
