"""A real Prometheus asks a running fleet: rules, alerts and the dashboard have data."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import yaml
from monitoring.prometheus import Prometheus, running_prometheus

from deltafleet.v1 import inference_pb2
from deploy.monitoring.dashboard import FILE, dashboard_json
from examples.demo.tasks import TASKS
from support.fleet import REPO, Fleet, running_fleet, until

RULES = sorted((REPO / "deploy" / "monitoring" / "rules").glob("*.yaml"))
TRACE = "0af7651916cd43dd8448eb211c80319c"
VARIABLES = {"model": ".*", "worker": ".*", "__rate_interval": "10m", "__range": "6h"}
SCALERS = sorted((REPO / "deploy" / "k8s" / "overlays").glob("*/scaling.yaml"))
# The demo fleet sends nothing to a closed API.
SILENT_HERE = re.compile(r"deltafleet_closed_api_\w+")
ARRIVAL_LIMIT_S = 60


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def prometheus(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Prometheus]:
    """One that has seen a fleet of this module's own build its weights and answer every task."""
    directory = tmp_path_factory.mktemp("prometheus")
    async with (
        running_fleet(directory) as fleet,
        running_prometheus(directory, fleet.metrics, RULES) as running,
    ):
        await _until_scraped(running)
        await traffic(fleet)
        await _until_scraped(running)
        await traffic(fleet)
        await _until_scraped(running)
        yield running


async def _until_scraped(prometheus: Prometheus) -> None:
    """Return when what the fleet had counted before this call has arrived."""
    asked_at = time.time()

    async def has_arrived() -> bool:
        found = await prometheus.query("timestamp(deltafleet_build_info)")
        return bool(found) and float(found[0]["value"][1]) > asked_at

    await until(has_arrived)


async def traffic(fleet: Fleet) -> None:
    rng = random.Random(7)
    await asyncio.gather(
        *(fleet.ask(TASKS[task].generate(rng).prompt) for task in sorted(TASKS) for _ in range(2))
    )
    await fleet.inference.Generate(
        inference_pb2.GenerateRequest(prompt=TASKS["sql"].generate(rng).prompt),
        metadata=(("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),),
    )


def rules(kind: str) -> list[dict[str, Any]]:
    return [
        rule
        for file in RULES
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


def queries() -> list[str]:
    """Every query of the dashboard, as Grafana would send it."""
    found = []
    for panel in json.loads(FILE.read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(f"${name}", value)
            assert "$" not in query, f"an unknown variable: {query}"
            found.append(query)
    return found


def choices() -> list[str]:
    """The metrics that the dashboard's variables take their values from."""
    listed = json.loads(FILE.read_text())["templating"]["list"]
    asked = [re.fullmatch(r"label_values\((\w+), (\w+)\)", one["query"]) for one in listed]
    return [f"count by ({found[2]}) ({found[1]})" for found in asked if found]


def scaling_queries() -> list[str]:
    """What KEDA asks, of this fleet's workers and models."""
    found = [
        trigger["metadata"]["query"]
        for file in SCALERS
        for scaler in yaml.safe_load_all(file.read_text())
        for trigger in scaler["spec"]["triggers"]
    ]
    return [re.sub(r'(worker|model)=~"[^"]*"', r'\1=~".*"', query) for query in found]


def has_a_number(series: list[dict[str, Any]]) -> bool:
    return any(not math.isnan(float(one["value"][1])) for one in series)


async def without_data(prometheus: Prometheus, expressions: list[str]) -> set[str]:
    """Those that have no number yet when the time is up."""
    silent = {one for one in expressions if not SILENT_HERE.search(one)}
    assert silent, "there is nothing to ask"
    give_up_at = time.monotonic() + ARRIVAL_LIMIT_S
    while silent and time.monotonic() < give_up_at:
        silent = {one for one in silent if not has_a_number(await prometheus.query(one))}
        await asyncio.sleep(0.5)
    return silent


async def test_every_query_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    assert await without_data(prometheus, queries() + choices()) == set()


async def test_every_query_of_the_autoscaler_has_data(prometheus: Prometheus) -> None:
    assert len(SCALERS) == 2
    assert await without_data(prometheus, scaling_queries()) == set()


async def test_every_query_is_understood(prometheus: Prometheus) -> None:
    for query in queries():
        await prometheus.query(query)


async def test_every_recording_rule_has_data(prometheus: Prometheus) -> None:
    names = [rule["record"] for rule in rules("record")]
    assert await without_data(prometheus, names) == set()


async def test_every_alert_is_evaluated_and_none_that_wakes_somebody_fires(
    prometheus: Prometheus,
) -> None:
    groups = (await prometheus.get("rules", type="alert"))["groups"]
    told = {rule["name"]: rule for group in groups for rule in group["rules"]}

    assert set(told) == {rule["alert"] for rule in rules("alert")}
    for name, rule in told.items():
        assert rule["health"] == "ok", f"{name}: {rule.get('lastError')}"
    quiet = {"DeltafleetGatewayDown", "DeltafleetWorkerDown", "DeltafleetSheds"}
    quiet |= {"DeltafleetLimitsStoreDown", "DeltafleetBreakerOpen"}
    assert {name for name in quiet if told[name]["state"] == "firing"} == set()


async def test_no_rule_failed(prometheus: Prometheus) -> None:
    assert await prometheus.query("prometheus_rule_evaluation_failures_total > 0") == []


async def test_an_exemplar_arrives_with_its_trace(prometheus: Prometheus) -> None:
    async def traces() -> set[str]:
        found = await prometheus.get(
            "query_exemplars",
            query="deltafleet_time_to_first_token_seconds_bucket",
            start=str(time.time() - 3600),
            end=str(time.time() + 60),
        )
        return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}

    async def has_arrived() -> bool:
        return TRACE in await traces()

    await until(has_arrived)


def test_the_dashboard_is_what_its_script_writes() -> None:
    assert FILE.read_text() == dashboard_json()


def test_every_metric_that_is_asked_for_by_the_dashboard_or_a_rule_is_recorded_or_told() -> None:
    """A recording rule that nobody records would make a panel empty for ever."""
    recorded = {rule["record"] for rule in rules("record")}
    asked = {
        name
        for expression in [
            *(*queries(), *scaling_queries()),
            *(rule["expr"] for rule in rules("expr")),
        ]
        for name in re.findall(r"deltafleet:[\w:]+", expression)
    }
    assert asked <= recorded
