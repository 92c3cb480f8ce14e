"""The metrics as they are told do not depend on how they are read."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Info, generate_latest
from prometheus_client.openmetrics import exposition

from gateway.histograms import ModelHistogram
from gateway.page.unhurried import TURN_COUNT, Unhurried


@pytest.fixture
def registry() -> CollectorRegistry:
    found = CollectorRegistry()
    counter = Counter("asked", "Asked.", ["who"], registry=found)
    for place in range(2 * TURN_COUNT):
        counter.labels(str(place)).inc(place)
    Info("it", "It.", registry=found).info({"is": "this"})
    ModelHistogram("took", "Took.", (1.0, 2.0), found).labels("sql").observe(1.5, {"trace_id": "a"})
    return found


def test_all_is_told_and_in_the_same_words(registry: CollectorRegistry) -> None:
    unhurried = Unhurried(registry)

    assert generate_latest(unhurried) == generate_latest(registry)
    told = exposition.generate_latest(unhurried)  # type: ignore[no-untyped-call]
    assert told == exposition.generate_latest(registry)  # type: ignore[no-untyped-call]


def test_a_part_is_told_alone(registry: CollectorRegistry) -> None:
    names = ["it_info"]
    told = generate_latest(Unhurried(registry).restricted_registry(names))

    assert b"it_info" in told
    assert told == generate_latest(registry.restricted_registry(names))
