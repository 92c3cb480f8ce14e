"""The workers' own words as metrics, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from deltafleet.v1 import worker_pb2
from gateway.ledger_store import WorkerLife
from gateway.pool_metrics import collect_pool
from gateway.pricing import US_PER_HOUR
from gateway.usd_counter import NANO_PER_USD
from gateway.worker_lives import life_of
from model_pool.pool import Pool

Status = worker_pb2.WatchStatusResponse
PREFIX = "deltafleet_worker_"


class WorkerCollector(Collector):
    """One sample per worker and quantity.

    What a worker counts begins at 0 when it starts, as if Prometheus asked it itself; while it is
    out of reach only `up`, with 0, is told. Several gateways tell the same of one worker: take the
    maximum by worker, never the sum.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        heard = {name: member.status for name, member in self._pool.members.items()}
        told = {name: status for name, status in heard.items() if status is not None}
        yield _family(
            GaugeMetricFamily(f"{PREFIX}up", "1 where the worker takes requests.", labels=WORKER),
            [([name], float(_is_up(status))) for name, status in heard.items()],
        )
        yield from _gauges(told)
        yield _loaded(told)
        yield from _counters(told)
        yield from _token_work(told)
        yield _switches(told)
        yield from collect_pool(self._pool)


WORKER = ("worker",)


def _gauges(told: dict[str, Status]) -> Iterator[Metric]:
    def gauge(name: str, text: str, values: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(PREFIX + name, text, labels=WORKER)
        return _family(family, [([worker], value) for worker, value in values.items()])

    items = told.items()
    running = {name: status.running_count for name, status in items}
    waiting = {name: status.queued_count for name, status in items}
    yield gauge("running_requests", "Requests that compute.", running)
    yield gauge("waiting_requests", "Requests that wait.", waiting)
    yield gauge(
        "start_time_seconds",
        "When the worker started, since the epoch.",
        {name: status.start_time.ToNanoseconds() / 1e9 for name, status in items},
    )
    yield gauge(
        "memory_budget_bytes",
        "Memory that weights may take.",
        {name: status.memory_budget_bytes for name, status in items},
    )
    yield gauge(
        "price_usd_per_hour",
        "What an hour of the worker costs.",
        {name: status.price_nano_usd_per_hour / NANO_PER_USD for name, status in items},
    )


def _loaded(told: dict[str, Status]) -> Metric:
    family = GaugeMetricFamily(
        "deltafleet_model_loaded_bytes",
        "Memory that a model's weights take on a worker. 0: not known.",
        labels=("worker", "model"),
    )
    return _family(
        family,
        [
            ([worker, one.model], one.size_bytes)
            for worker, status in told.items()
            for one in status.loaded
        ],
    )


def _counters(told: dict[str, Status]) -> Iterator[Metric]:
    labels = ("worker", "state")
    seconds = CounterMetricFamily(
        f"{PREFIX}seconds",
        "Seconds of the worker's life: computing, building weights, switching them, idle.",
        labels=labels,
    )
    cost = CounterMetricFamily(
        f"{PREFIX}cost_usd", "What these seconds cost, in USD.", labels=labels
    )
    switches = CounterMetricFamily(
        f"{PREFIX}switches",
        "Switches of the live weights, where an engine has one set of them.",
        labels=WORKER,
    )
    for worker, status in told.items():
        for state, span_us in spans_us(life_of(status)).items():
            seconds.add_metric([worker, state], span_us / 1e6)
        for state, nano_usd in life_cost_nano_usd(status).items():
            cost.add_metric([worker, state], nano_usd / NANO_PER_USD)
        switches.add_metric([worker], status.switch_count)
    return iter((seconds, cost, switches))


def _token_work(told: dict[str, Status]) -> Iterator[Metric]:
    """Of our own workers: of other servers it is not known."""

    def counter(name: str, text: str, values: Mapping[str, float]) -> Metric:
        family = CounterMetricFamily(PREFIX + name, text, labels=WORKER)
        for worker, value in values.items():
            family.add_metric([worker], value)
        return family

    items = [(name, status) for name, status in told.items() if status.engine != "openai"]
    yield counter(
        "prefill_seconds",
        "Of the computing seconds, those that read prompts.",
        {name: status.prefill_s for name, status in items},
    )
    yield counter(
        "prefill_tokens",
        "Tokens of prompts that were computed.",
        {name: status.prefill_token_count for name, status in items},
    )
    yield counter(
        "decode_seconds",
        "Of the computing seconds, those that went on with answers.",
        {name: status.decode_s for name, status in items},
    )
    yield counter(
        "decode_tokens",
        "Tokens of answers that were computed, but for each answer's first.",
        {name: status.decode_token_count for name, status in items},
    )


def _switches(told: dict[str, Status]) -> Metric:
    family = HistogramMetricFamily(
        f"{PREFIX}switch_seconds",
        "One change of weights: of the live ones, or a build where an engine holds many sets.",
        labels=WORKER,
    )
    for worker, status in told.items():
        durations = status.switches
        if durations.counts:
            family.add_metric([worker], _buckets(durations), durations.sum_s)
    return family


def _buckets(durations: worker_pb2.DurationCounts) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, durations.upper_bounds_s), "+Inf"]
    return list(zip(bounds, map(float, accumulate(durations.counts)), strict=True))


def _family(
    family: GaugeMetricFamily, samples: Sequence[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _is_up(status: Status | None) -> bool:
    return status is not None and status.state == worker_pb2.WORKER_STATE_READY


def spans_us(life: WorkerLife) -> dict[str, int]:
    """A worker's uptime in its four parts, in microseconds."""
    return {
        "busy": life.busy_us,
        "load": life.load_us,
        "switch": life.switch_us,
        "idle": life.idle_us,
    }


def life_cost_nano_usd(status: Status) -> dict[str, int]:
    """What they cost, each rounded down by itself, so that no counter ever falls back."""
    life = life_of(status)
    price = life.price_nano_usd_per_hour
    return {state: span_us * price // US_PER_HOUR for state, span_us in spans_us(life).items()}
