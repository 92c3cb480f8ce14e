"""The metrics, read so that the event loop of the doors goes on meanwhile.

Python gives the interpreter to who waits for it after five milliseconds, or when who has it waits:
so who reads some thousand lines waits now and then.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

TURN_COUNT = 50  # samples, which take some 0.2 ms
PAUSE_S = 0.0001  # long enough for the other thread to wake


class Unhurried(Collector):
    """A registry, or a part of one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """See Collector; each family's samples can be read once."""
        for metric in self._registry.collect():
            metric.samples = _in_turns(metric.samples)  # type: ignore[assignment]
            yield metric

    def restricted_registry(self, names: Iterable[str]) -> Unhurried:
        """Of some families alone; see CollectorRegistry."""
        return Unhurried(self._registry.restricted_registry(names))  # type: ignore[arg-type]


def _in_turns(samples: Iterable[Sample]) -> Iterator[Sample]:
    for place, sample in enumerate(samples):
        if place % TURN_COUNT == 0:
            # Not time.sleep, which waits for a moment of the clock: libfaketime refuses that.
            select.select([], [], [], PAUSE_S)
        yield sample
