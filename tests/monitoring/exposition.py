"""Reading a gateway's metrics page as Prometheus does."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import defaultdict

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

ACCEPT = "application/openmetrics-text; version=1.0.0"


async def families(address: str) -> dict[str, Metric]:
    """Every family of a page, by name. Raises ValueError where it breaks the format."""
    text = await asyncio.to_thread(_read, f"http://{address}/metrics")
    return {family.name: family for family in text_string_to_metric_families(text)}


def _read(url: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": ACCEPT})
    with urllib.request.urlopen(request) as page:
        assert page.headers["Content-Type"].startswith("application/openmetrics-text")
        return page.read().decode()


def sums(family: Metric, *labels: str) -> dict[tuple[str, ...], float]:
    """A counter's values added up by these labels."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for sample in family.samples:
        assert sample.name.endswith("_total")
        found[tuple(sample.labels[label] for label in labels)] += sample.value
    return dict(found)
