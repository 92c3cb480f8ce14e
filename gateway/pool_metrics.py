"""What the gateway itself knows of its workers, as metrics, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from model_pool.hedging import WINNERS
from model_pool.lease import RETRY_REASONS
from model_pool.pool import Pool


def collect_pool(pool: Pool) -> Iterator[Metric]:
    """Breakers, requests that moved on, and requests that ran twice."""
    states = GaugeMetricFamily(
        "deltafleet_worker_breaker_state",
        "Whether requests go to the worker: 0 they do, 1 one does as a probe, 2 none does.",
        labels=("worker",),
    )
    for name, member in pool.members.items():
        if member.status is not None:  # as all else of a worker
            states.add_metric([name], pool.breaker_state(member))
    yield states
    yield _counter(
        "deltafleet_worker_retries",
        "Requests that were given to another worker before their first word.",
        "reason",
        RETRY_REASONS,
        pool.retries,
    )
    yield _counter(
        "deltafleet_hedged_requests",
        "Requests that a second worker ran, too, by whose word came first.",
        "won",
        WINNERS,
        pool.hedging.counts if pool.hedging else {},
    )


def _counter(
    name: str, text: str, label: str, values: Sequence[str], counts: Mapping[str, int]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value in values:
        family.add_metric([value], counts.get(value, 0))
    return family
