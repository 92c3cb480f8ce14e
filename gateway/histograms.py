"""Histograms by model that cost little to add to, also many values at once, and little to read.

Prometheus's own walks all buckets under a lock for each value; one for every token was a tenth of
what a stream took.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Exemplar, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Counts:
    """One model's values. Added to on the event loop, read from another thread."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._names = [str(floatToGoString(one)) for one in bounds]  # type: ignore[no-untyped-call]
        self._counts = [0] * len(bounds)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}
        self._lock = threading.Lock()

    def observe(self, value: float, exemplar: Mapping[str, str] | None = None) -> None:
        """Count one."""
        place = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[place] += 1
            self._sum += value
            if exemplar:
                self._exemplars[place] = Exemplar(dict(exemplar), value, time.time())

    def observe_all(
        self, values: Sequence[float], exemplar: Mapping[str, str] | None = None
    ) -> None:
        """Count many, at least one. exemplar: of the largest."""
        places = [bisect_left(self._bounds, value) for value in values]
        total = sum(values)
        with self._lock:
            for place in places:
                self._counts[place] += 1
            self._sum += total
            if exemplar:
                place = max(places)
                self._exemplars[place] = Exemplar(dict(exemplar), max(values), time.time())

    def read(self) -> tuple[list[Any], float]:
        """Each upper bound with the number of values up to it and its exemplar; the sum of all."""
        with self._lock:
            counts, total, exemplars = list(self._counts), self._sum, dict(self._exemplars)
        found, so_far = [], 0
        for place, count in enumerate(counts):
            so_far += count
            found.append((self._names[place], float(so_far), exemplars.get(place)))
        return found, total


class ModelHistogram(Collector):
    """A histogram with one label, the model."""

    def __init__(
        self, name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """buckets: upper bounds, rising; infinity is added."""
        self._name, self._text = name, text
        self._bounds = (*buckets, float("inf"))
        self._of: dict[str, Counts] = {}
        registry.register(self)

    def labels(self, model: str) -> Counts:
        """The model's own; from then on it is shown."""
        found = self._of.get(model)
        if found is None:
            found = self._of.setdefault(model, Counts(self._bounds))
        return found

    def describe(self) -> Iterator[Metric]:
        """See Collector."""
        yield HistogramMetricFamily(self._name, self._text, labels=["model"])

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        family = HistogramMetricFamily(self._name, self._text, labels=["model"])
        for model, counts in tuple(self._of.items()):
            buckets, total = counts.read()
            family.add_metric([model], buckets, total)
        yield family
