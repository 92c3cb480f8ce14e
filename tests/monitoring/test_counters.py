"""What the gateway counts, and how it is told."""

from __future__ import annotations

import bisect
import re

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from deltafleet.v1 import worker_pb2
from gateway.http_door.application import ANSWERING
from gateway.metrics import HTTP_ANSWERING, LIMITS, Metrics
from gateway.pricing import span_cost_nano_usd
from gateway.usd_counter import UsdCounter
from gateway.wait_metrics import WaitCollector
from gateway.worker_metrics import WorkerCollector, life_cost_nano_usd
from model_pool.durations import Durations
from model_pool.pool import Pool
from model_pool.worker_link import WorkerLink
from support.fleet import REPO

README = REPO / "deploy" / "monitoring" / "README.md"
# Told by what knows it, not by Metrics.
ELSEWHERE = ("deltafleet_closed_api_", "deltafleet_price_age_")
NANO_USD = st.integers(0, 10**15)


def counter() -> tuple[UsdCounter, CollectorRegistry]:
    registry = CollectorRegistry()
    return UsdCounter("spent_usd", "What was spent.", ("model",), registry), registry


@given(st.lists(st.tuples(st.sampled_from(["sql", "base"]), NANO_USD), max_size=40))
def test_a_sum_of_money_is_exact_to_the_nano_dollar(spent: list[tuple[str, int]]) -> None:
    told, registry = counter()
    for model, nano_usd in spent:
        told.add(nano_usd, model)

    for model in {name for name, _ in spent}:
        value = registry.get_sample_value("spent_usd_total", {"model": model})
        total = sum(nano_usd for name, nano_usd in spent if name == model)
        assert round(value * 10**9) == pytest.approx(total, rel=1e-15, abs=0)


def test_a_thousand_tenths_of_a_cent_are_a_dollar() -> None:
    told, registry = counter()
    for _ in range(1000):
        told.add(1_000_000, "sql")  # as floats these sum up to 1.0000000000000007

    assert registry.get_sample_value("spent_usd_total", {"model": "sql"}) == 1.0


def test_money_never_goes_back() -> None:
    told, _ = counter()
    with pytest.raises(ValueError, match="spent_usd"):
        told.add(-1, "sql")
    with pytest.raises(ValueError, match="spent_usd"):
        told.add(1)


@given(st.lists(st.floats(0, 1e4), max_size=50))
def test_every_duration_is_in_the_bucket_of_its_bound(seconds: list[float]) -> None:
    bounds = (0.1, 1.0, 10.0)
    durations = Durations(bounds)
    for value in seconds:
        durations.add(value)
    message = durations.message()

    ordered = sorted(seconds)
    up_to = [sum(message.counts[: index + 1]) for index in range(len(bounds))]
    assert up_to == [bisect.bisect_right(ordered, bound) for bound in bounds]
    assert sum(message.counts) == len(seconds)
    assert message.sum_s == pytest.approx(sum(seconds))


def test_bounds_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="ascend"):
        Durations((1.0, 1.0))


@given(
    parts_us=st.tuples(*[st.integers(0, 10**13)] * 4),
    later_us=st.tuples(*[st.integers(0, 10)] * 4),
    price=st.integers(0, 100 * 10**9),
)
def test_the_parts_of_a_life_cost_what_the_whole_does_and_never_fall_back(
    parts_us: tuple[int, ...], later_us: tuple[int, ...], price: int
) -> None:
    costs = []
    for each_us in (parts_us, [sum(both) for both in zip(parts_us, later_us, strict=True)]):
        busy_s, load_s, switch_s, _ = (one / 1e6 for one in each_us)
        status = worker_pb2.WatchStatusResponse(
            uptime_s=sum(each_us) / 1e6,
            busy_s=busy_s,
            load_s=load_s,
            switch_s=switch_s,
            price_nano_usd_per_hour=price,
        )
        costs.append(life_cost_nano_usd(status))
    first, later = costs

    assert set(first) == {"busy", "load", "switch", "idle"}
    assert 0 <= span_cost_nano_usd(sum(parts_us), price) - sum(first.values()) <= 4
    assert all(later[state] >= first[state] for state in first)


async def test_a_worker_out_of_reach_is_told_as_down_and_nothing_else() -> None:
    durations = Durations((1.0,))
    for seconds in (0.5, 0.75, 3.0):
        durations.add(seconds)
    here, gone = WorkerLink("here", "127.0.0.1:1"), WorkerLink("gone", "127.0.0.1:1")
    here.status = worker_pb2.WatchStatusResponse(
        worker="here", state=worker_pb2.WORKER_STATE_READY, switches=durations.message()
    )
    registry = CollectorRegistry()
    pool = Pool([here, gone], limit_count=1, wait_s=1, on_change=lambda: None)
    registry.register(WorkerCollector(pool))

    assert registry.get_sample_value("deltafleet_worker_up", {"worker": "here"}) == 1
    assert registry.get_sample_value("deltafleet_worker_up", {"worker": "gone"}) == 0
    name = "deltafleet_worker_switch_seconds"
    upto = [
        registry.get_sample_value(f"{name}_bucket", {"worker": "here", "le": bound})
        for bound in ("1.0", "+Inf")
    ]
    assert upto == [2, 3]
    assert registry.get_sample_value(f"{name}_sum", {"worker": "here"}) == 4.25
    told = generate_latest(registry).decode()
    assert [line for line in told.splitlines() if 'worker="gone"' in line] == [
        'deltafleet_worker_up{worker="gone"} 0.0'
    ]
    assert registry.get_sample_value("deltafleet_worker_breaker_state", {"worker": "here"}) == 0
    await pool.stop()


def test_metrics_keep_the_conventions() -> None:
    """OpenMetrics' own parser refuses what breaks its rules; the rest is Prometheus' advice."""
    metrics = Metrics()
    metrics.expect(["sql"], ["gpt"])
    metrics.describe("0" * 64)
    metrics.call_ended("/deltafleet.v1.InferenceService/Generate", grpc.StatusCode.OK, "")
    registry = metrics.registry
    pool = Pool([], limit_count=1, wait_s=1, on_change=lambda: None)
    registry.register(WorkerCollector(pool))
    registry.register(WaitCollector(pool.waits, lambda: ["sql"]))

    families = list(text_string_to_metric_families(generate_latest(registry).decode()))

    ours = [family for family in families if not family.name.startswith("process_")]
    assert len(ours) > 20
    for family in ours:
        assert family.name.startswith("deltafleet_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb", "_percent"))
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_the_documents_name_every_metric() -> None:
    metrics = Metrics()
    metrics.describe("0" * 64)
    pool = Pool([], limit_count=1, wait_s=1, on_change=lambda: None)
    metrics.registry.register(WorkerCollector(pool))
    metrics.registry.register(WaitCollector(pool.waits, lambda: ["sql"]))
    suffix = {"counter": "_total", "info": "_info"}
    told = {
        family.name + suffix.get(family.type, "")
        for family in metrics.registry.collect()
        if family.name.startswith("deltafleet_")
    }

    documented = set(re.findall(r"^\| `(\w+)", README.read_text(), re.MULTILINE))
    assert told <= documented
    assert {name for name in documented - told if not name.startswith(ELSEWHERE)} == set()


def test_what_alerts_and_rates_need_is_there_before_the_first_request() -> None:
    metrics = Metrics()
    metrics.expect(("sql",), ())
    value = metrics.registry.get_sample_value

    assert set(HTTP_ANSWERING) == set(ANSWERING)
    for path in ANSWERING:
        told = {"path": path, "status": "200", "reason": ""}
        assert value("deltafleet_http_requests_total", told) == 0
    for state in ("running", "answered"):
        assert value("deltafleet_repeated_requests_total", {"state": state}) == 0
    for limit in LIMITS:
        assert value("deltafleet_limited_requests_total", {"limit": limit}) == 0
