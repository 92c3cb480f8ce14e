"""The metrics page of a fleet that answers, beside its ledger."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from monitoring.exposition import families, sums
from prometheus_client.metrics_core import Metric

from deltafleet.v1 import inference_pb2
from examples.demo.tasks import TASKS
from support.fleet import Fleet, first_text, refusal, running_fleet

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(
    tmp_path_factory: pytest.TempPathFactory, long_request: inference_pb2.GenerateRequest
) -> AsyncIterator[tuple[Fleet, dict]]:
    """A fleet of this module's own after every kind of end that a request can have, and its page
    at that moment.
    """
    async with running_fleet(tmp_path_factory.mktemp("page")) as running:
        await traffic(running, long_request)
        yield running, await families(running.metrics)


async def traffic(fleet: Fleet, long_request: inference_pb2.GenerateRequest) -> None:
    rng = random.Random(6)
    prompts = [TASKS[task].generate(rng).prompt for task in sorted(TASKS) for _ in range(3)]
    await asyncio.gather(*map(fleet.ask, prompts))
    traced = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
    request = inference_pb2.GenerateRequest(prompt=prompts[0])
    await fleet.inference.Generate(request, metadata=traced)
    call = fleet.inference.StreamGenerate(long_request)
    await first_text(call)
    call.cancel()
    await refusal(fleet.ask(prompts[0], model="nobody"))
    with contextlib.suppress(grpc.aio.AioRpcError):
        await fleet.inference.Generate(request, timeout=0.001)
    await _until_nothing_runs(fleet)


async def _until_nothing_runs(fleet: Fleet) -> None:
    while True:
        page = await families(fleet.metrics)
        if _value(page, "deltafleet_requests_in_flight") == 0 and len(ledger_rows(fleet)) == sum(
            sums(page["deltafleet_requests"]).values()
        ):
            return
        await asyncio.sleep(0.05)


def _value(page: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = [one.value for one in page[name].samples if labels.items() <= one.labels.items()]
    return found


def ledger_rows(fleet: Fleet) -> list[tuple]:
    return _select(
        fleet.ledger,
        "select model, reason, outcome, prompt_token_count, output_token_count, cost_nano_usd, "
        "first_token_us from requests",
    )


def _select(ledger: Path, statement: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


async def test_money_and_tokens_are_those_of_the_ledger(page: tuple[Fleet, dict]) -> None:
    fleet, told = page
    for name, column in (("cost_usd", 5), ("prompt_tokens", 3), ("output_tokens", 4)):
        unit = 10**9 if name == "cost_usd" else 1
        kept: dict[str, int] = {}
        for row in ledger_rows(fleet):
            kept[row[0]] = kept.get(row[0], 0) + row[column]
        counted = sums(told[f"deltafleet_{name}"], "model")
        assert {model: round(value * unit) for (model,), value in counted.items() if value} == {
            model: value for model, value in kept.items() if value
        }
        assert sum(kept.values()) > 0


async def test_baselines_are_those_of_the_ledger(page: tuple[Fleet, dict]) -> None:
    fleet, told = page
    kept = _select(
        fleet.ledger,
        "select model, baseline, sum(b.cost_nano_usd) from baseline_costs b join requests r "
        "using (row) where outcome = 'answered' group by model, baseline",
    )
    counted = sums(told["deltafleet_baseline_cost_usd"], "model", "baseline")

    assert {key: round(value * 10**9) for key, value in counted.items() if value} == {
        (model, baseline): cost for model, baseline, cost in kept
    }
    assert set(counted) == {
        (model, baseline)
        for model in ("base", *TASKS)
        for baseline in ("gpt-5-mini", "claude-haiku-4-5")
    }


async def test_requests_are_counted_by_their_end(page: tuple[Fleet, dict]) -> None:
    fleet, told = page
    counted = sums(told["deltafleet_requests"], "model", "reason", "outcome")
    kept = [row[:3] for row in ledger_rows(fleet)]

    assert counted == {key: kept.count(key) for key in set(kept)}
    assert {"answered", "cancelled"} <= {outcome for _, _, outcome in counted}


async def test_every_call_is_counted_by_its_status(page: tuple[Fleet, dict]) -> None:
    _, told = page
    counted = sums(told["deltafleet_grpc_server_handled"], "grpc_method", "grpc_code", "reason")

    assert counted["Generate", "OK", ""] == 3 * len(TASKS) + 1
    assert counted["Generate", "NOT_FOUND", "unknown_model"] == 1
    assert counted["StreamGenerate", "CANCELLED", ""] == 1


async def test_the_parts_of_a_worker_cost_its_seconds_at_its_price(
    page: tuple[Fleet, dict],
) -> None:
    _, told = page
    seconds = sums(told["deltafleet_worker_seconds"], "worker", "state")
    cost = sums(told["deltafleet_worker_cost_usd"], "worker", "state")
    price = _value(told, "deltafleet_worker_price_usd_per_hour", worker="worker-0")

    assert price == 0.05
    states = ("busy", "load", "switch", "idle")
    assert set(seconds) == set(cost) == {("worker-0", state) for state in states}
    # Told once a scrape from one status each, so that a moment lies between the two.
    assert sum(cost.values()) == pytest.approx(sum(seconds.values()) * price / 3600, abs=5e-9)
    # It has many sets of weights in memory, and never switches.
    assert {state for (_, state), usd in cost.items() if not usd} == {"switch"}


async def test_histograms_hold_every_answer_once(page: tuple[Fleet, dict]) -> None:
    fleet, told = page
    rows = ledger_rows(fleet)
    # One that was given up may have tokens that were computed and never seen.
    with_tokens = sum(row[6] is not None for row in rows)

    assert 0 < with_tokens <= sum(row[4] > 0 for row in rows)
    assert _count(told, "e2e_request_latency_seconds") == len(rows)
    assert _count(told, "time_to_first_token_seconds") == with_tokens
    assert _count(told, "request_queue_time_seconds") == with_tokens
    assert 0 < _count(told, "request_time_per_output_token_seconds") <= with_tokens
    assert _count(told, "inter_token_latency_seconds") > with_tokens
    assert _count(told, "worker_switch_seconds") == len(TASKS) + 1


def _count(page: dict[str, Metric], name: str) -> float:
    family = page[f"deltafleet_{name}"]
    return sum(one.value for one in family.samples if one.name.endswith("_count"))


async def test_an_exemplar_leads_to_the_callers_trace(page: tuple[Fleet, dict]) -> None:
    _, told = page
    leading = {
        name
        for name, family in told.items()
        for sample in family.samples
        if sample.exemplar and sample.exemplar.labels == {"trace_id": TRACE}
    }

    assert leading >= {
        "deltafleet_requests",
        "deltafleet_time_to_first_token_seconds",
        "deltafleet_e2e_request_latency_seconds",
        "deltafleet_inter_token_latency_seconds",
    }
    others = {
        sample.exemplar.labels["trace_id"]
        for family in told.values()
        for sample in family.samples
        if sample.exemplar
    }
    assert others == {TRACE}


async def test_the_build_and_the_configuration_are_told(page: tuple[Fleet, dict]) -> None:
    _, told = page
    (build,) = told["deltafleet_build"].samples
    (config,) = told["deltafleet_config"].samples

    assert build.labels["version"]
    assert len(bytes.fromhex(config.labels["sha256"])) == 32
