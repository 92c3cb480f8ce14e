"""What closed APIs were paid, as metrics, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.pricing import to_usd
from gateway.spending import Budget


class SpendingCollector(Collector):
    """budgets: by the API's name."""

    def __init__(self, budgets: Callable[[], Mapping[str, Budget]]) -> None:
        self._budgets = budgets

    def collect(self) -> Iterator[Metric]:
        """One family per quantity, one sample per API."""
        spent = CounterMetricFamily(
            "deltafleet_closed_api_spent_usd", "Bills of closed APIs.", labels=["api"]
        )
        held = GaugeMetricFamily(
            "deltafleet_closed_api_held_usd",
            "What requests on their way may cost at most.",
            labels=["api"],
        )
        limit = GaugeMetricFamily(
            "deltafleet_closed_api_daily_budget_usd",
            "What this gateway may spend from midnight to midnight UTC.",
            labels=["api"],
        )
        for api, budget in self._budgets().items():
            spent.add_metric([api], float(to_usd(budget.billed_nano_usd)))
            held.add_metric([api], float(to_usd(budget.held_nano_usd)))
            limit.add_metric([api], float(to_usd(budget.limit_nano_usd)))
        return iter((spent, held, limit))
