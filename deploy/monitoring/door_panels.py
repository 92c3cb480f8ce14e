"""The dashboard's row of what comes in, what is kept out, and what goes wrong on the way."""

from __future__ import annotations

from deploy.monitoring.panel import MODEL, RATE, WORKER, Panel, Query


def rates(title: str, text: str, name: str, label: str) -> Panel:
    """A counter of the gateways', per second, by one label."""
    query = f"sum by ({label}) (rate(deltafleet_{name}_total{RATE}))"
    return Panel(title, text, "reqps", (Query(query, f"{{{{{label}}}}}"),))


LAG = f"sum by (le) (rate(deltafleet_event_loop_lag_seconds_bucket{RATE}))"
DOORS = (
    Panel(
        "HTTP requests by status",
        "Per second; with the reason of what failed. 499: the caller left.",
        "reqps",
        (
            Query(
                f"sum by (status, reason) (rate(deltafleet_http_requests_total{RATE}))",
                "{{status}} {{reason}}",
            ),
        ),
    ),
    rates(
        "Kept back by limits",
        "Refused or cut per second, by the limit of the caller. unavailable: budgets could not be "
        "counted.",
        "limited_requests",
        "limit",
    ),
    Panel(
        "Shared counts of limits",
        "1: there, or not asked for. 0: some gateway does not reach its Redis.",
        "none",
        (Query("min(deltafleet_limits_store_up)", "there"),),
    ),
    rates(
        "Asked again with the same id",
        "Per second: joined to a request that ran, or answered from memory. None ran twice.",
        "repeated_requests",
        "state",
    ),
    rates(
        "Moved to another worker",
        "Per second, before the first word, by what was wrong with the first worker.",
        "worker_retries",
        "reason",
    ),
    rates(
        "Run on a second worker, too",
        "Slow unary requests per second (pool.hedging), by whose word came first.",
        "hedged_requests",
        "won",
    ),
    Panel(
        "Breakers",
        "0: the worker gets requests. 1: one as a probe. 2: none; of the gateways the worst.",
        "none",
        (Query(f"max by (worker) (deltafleet_worker_breaker_state{{{WORKER}}})", "{{worker}}"),),
    ),
    Panel(
        "Longest wait for a first word",
        "By model; also while no worker is up. What groups of workers are scaled by.",
        "s",
        (Query(f"max by (model) (deltafleet_pool_oldest_wait_seconds{{{MODEL}}})", "{{model}}"),),
    ),
    Panel(
        "Waiting for a first word",
        "Requests, by model.",
        "none",
        (Query(f"sum by (model) (deltafleet_pool_waiting_requests{{{MODEL}}})", "{{model}}"),),
    ),
    Panel(
        "The event loop is late by",
        "What every call waits before a gateway looks at it.",
        "s",
        tuple(
            Query(f"histogram_quantile({share}, {LAG})", f"p{share * 100:g}")
            for share in (0.5, 0.99)
        ),
    ),
    Panel(
        "Tasks of the event loop",
        "That have not ended, by gateway; a line that only rises is a leak.",
        "none",
        (Query("max by (instance) (deltafleet_event_loop_tasks)", "{{instance}}"),),
    ),
    rates(
        "Readings of fleet.yaml",
        "Of changed files, per second; applied or refused whole.",
        "config_reloads",
        "outcome",
    ),
)
