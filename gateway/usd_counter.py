"""Money as a Prometheus counter: summed as whole nano-dollars, told as USD."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

NANO_PER_USD = 10**9


class UsdCounter(Collector):
    """A counter of nano-dollars per label set.

    Prometheus keeps binary floats; a sum of them drifts from the ledger's. Here the sum is an
    integer, and becomes a float once, when it is read: at most half a unit in the last place off.
    """

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        """name: without `_total`."""
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._sums: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()  # read on the thread that answers Prometheus
        registry.register(self)

    def add(self, nano_usd: int, *values: str) -> None:
        """values: of the labels, in their order. 0 makes the series appear. Raises ValueError."""
        if nano_usd < 0 or len(values) != len(self._labels):
            raise ValueError(f"{self._name}: {nano_usd} nano-USD for {values}")
        with self._lock:
            self._sums[values] = self._sums.get(values, 0) + nano_usd

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        with self._lock:
            sums = dict(self._sums)
        for values, nano_usd in sums.items():
            family.add_metric(values, nano_usd / NANO_PER_USD)
        yield family
