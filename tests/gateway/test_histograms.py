"""Our histogram says what Prometheus's own would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from gateway.histograms import ModelHistogram

BUCKETS = (0.001, 0.5, 1.0, 2.5)
NAME, TEXT = "deltafleet_test_seconds", "For a test."


def samples(registry: CollectorRegistry) -> set[str]:
    lines = generate_latest(registry).decode().splitlines()
    return {line for line in lines if "_created" not in line and not line.startswith("#")}


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.001, 0.4, 1.0, 2.5, 9.0])))
)
def test_one_by_one_or_all_at_once_it_counts_as_prometheus_does(
    values: list[tuple[str, float]],
) -> None:
    registries = [CollectorRegistry() for _ in range(3)]
    theirs = Histogram(NAME, TEXT, ["model"], buckets=BUCKETS, registry=registries[0])
    singly, together = (ModelHistogram(NAME, TEXT, BUCKETS, one) for one in registries[1:])
    for model, value in values:
        theirs.labels(model).observe(value)
        singly.labels(model).observe(value)
    for model in {model for model, _ in values}:
        together.labels(model).observe_all([value for one, value in values if one == model])

    expected, *found = map(samples, registries)
    assert found[0] == expected
    assert {line for line in found[1] if "_sum" not in line} == {
        line for line in expected if "_sum" not in line
    }


def test_an_exemplar_stands_at_its_bucket() -> None:
    registry = CollectorRegistry()
    ModelHistogram(NAME, TEXT, BUCKETS, registry).labels("sql").observe(0.7, {"trace_id": "abc"})

    lines = generate_openmetrics(registry).decode().splitlines()
    [line] = [line for line in lines if 'trace_id="abc"' in line]
    assert 'le="1.0"' in line


def test_of_many_the_largest_has_the_exemplar() -> None:
    registry = CollectorRegistry()
    model = ModelHistogram(NAME, TEXT, BUCKETS, registry).labels("sql")
    model.observe_all([0.001, 0.7, 0.2], {"trace_id": "abc"})

    lines = generate_openmetrics(registry).decode().splitlines()
    [line] = [line for line in lines if 'trace_id="abc"' in line]
    assert 'le="1.0"' in line
    assert "0.7" in line


def test_a_model_is_shown_from_when_it_is_named() -> None:
    registry = CollectorRegistry()
    ModelHistogram(NAME, TEXT, BUCKETS, registry).labels("sql")
    assert f'{NAME}_count{{model="sql"}} 0.0' in samples(registry)
