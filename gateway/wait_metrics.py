"""Who waits for a first word, as metrics: what workers are scaled by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model_pool.waits import Waits


class WaitCollector(Collector):
    """Two gauges for each model, 0 where nobody waits; also while no worker that serves it is up.

    A gateway tells of its own requests: take the sum of counts, and the maximum of ages.
    """

    def __init__(self, waits: Waits, models: Callable[[], Iterable[str]]) -> None:
        """models: those that workers run."""
        self._waits = waits
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        count = GaugeMetricFamily(
            "deltafleet_pool_waiting_requests",
            "Requests that have no first word from a worker yet, or no worker.",
            labels=("model",),
        )
        oldest = GaugeMetricFamily(
            "deltafleet_pool_oldest_wait_seconds",
            "How long the oldest of them has waited.",
            labels=("model",),
        )
        found = self._waits.by_model()
        for model in sorted(self._models()):
            waiting_count, longest_s = found.get(model, (0, 0.0))
            count.add_metric([model], waiting_count)
            oldest.add_metric([model], longest_s)
        yield from (count, oldest)
