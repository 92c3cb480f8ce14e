"""What the Grafana dashboard shows: its rows, their panels and the queries of each."""

from __future__ import annotations

from deploy.monitoring.door_panels import DOORS
from deploy.monitoring.panel import (
    ANSWERS,
    MODEL,
    RATE,
    WORKER,
    Panel,
    Query,
    quantiles,
    times,
)

MONEY = (
    Panel(
        "Saving against each baseline",
        "Of what the closed API would have charged, the share that is not paid. Workers count "
        "as paid whatever they do. Below 0: the closed API would have been cheaper.",
        "percentunit",
        (Query("deltafleet:saving:ratio_rate1h", "{{baseline}}"),),
        is_stat=True,
    ),
    Panel(
        "The fleet costs, per hour",
        "All workers' uptime at their price, and what closed APIs billed.",
        "currencyUSD",
        (Query("3600 * deltafleet:fleet_cost_usd:rate1h", "USD per hour"),),
        width=5,
        is_stat=True,
    ),
    Panel(
        "Per million tokens",
        "Everything that is paid, over prompt and output tokens together.",
        "currencyUSD",
        (Query("deltafleet:effective_usd_per_mtok:rate1h", "USD"),),
        width=5,
        is_stat=True,
    ),
    Panel(
        "Paid for workers in the time shown",
        "",
        "currencyUSD",
        (
            Query(
                "sum(max by (worker, state) "
                "(increase(deltafleet_worker_cost_usd_total[$__range])))",
                "USD",
            ),
        ),
        width=6,
        is_stat=True,
    ),
    Panel(
        "USD per hour: the fleet beside its baselines",
        "What is paid, and what each closed API would have charged for the same answers.",
        "currencyUSD",
        (
            Query("3600 * deltafleet:fleet_cost_usd:rate1h", "the fleet"),
            Query("3600 * deltafleet:baseline_cost_usd:rate1h", "{{baseline}}"),
        ),
        width=12,
    ),
    Panel(
        "What is paid workers for, USD per hour",
        "busy: computing answers. load: building weights. switch: changing the live ones. idle: "
        "none of these.",
        "currencyUSD",
        (Query("3600 * sum by (state) (deltafleet:worker_cost_usd:rate1h)", "{{state}}"),),
        width=12,
        is_stacked=True,
    ),
    Panel(
        "Marginal saving",
        "The saving without what computes nothing: what one more request saves.",
        "percentunit",
        (Query("deltafleet:marginal_saving:ratio_rate1h", "{{baseline}}"),),
    ),
    Panel(
        "Computing per million tokens, by model",
        "",
        "currencyUSD",
        (Query(f"deltafleet:marginal_usd_per_mtok:rate1h{{{MODEL}}}", "{{model}}"),),
    ),
    Panel(
        "Saved per hour",
        "USD; below 0 where the closed API would have been cheaper.",
        "currencyUSD",
        (Query("3600 * deltafleet:saving_usd:rate1h", "{{baseline}}"),),
    ),
    Panel(
        "Closed APIs: share of the daily budget spent in 24 hours",
        "Empty for a fleet that escalates to none.",
        "percentunit",
        (
            Query(
                "sum by (api) (increase(deltafleet_closed_api_spent_usd_total[1d])) "
                "/ sum by (api) (deltafleet_closed_api_daily_budget_usd)",
                "{{api}}",
            ),
        ),
        width=12,
    ),
    Panel(
        "Age of the prices that baselines are counted with",
        "",
        "s",
        (Query("max by (baseline) (deltafleet_price_age_seconds)", "{{baseline}}"),),
        width=12,
    ),
)
LATENCY = (
    times("Time to first token", "time_to_first_token_seconds", "From receiving the request."),
    times("Whole request", "e2e_request_latency_seconds", "From receiving it to its end."),
    times("Between tokens", "inter_token_latency_seconds", "Stalls are seen here."),
    times(
        "Per output token",
        "request_time_per_output_token_seconds",
        "The mean of each request, without its first token.",
    ),
    times(
        "Queued at the worker",
        "request_queue_time_seconds",
        "Until the first step; waiting for weights is part of it.",
    ),
    Panel(
        "One change of weights",
        "A switch of the live weights, or a build where an engine holds many sets.",
        "s",
        quantiles("worker_switch_seconds", by="worker", label=WORKER),
        width=12,
    ),
    Panel(
        "How fast error budgets burn, over an hour",
        "1: exactly as fast as the objective allows. 14.4 wakes somebody.",
        "none",
        (Query("deltafleet:slo_burn:ratio_rate1h", "{{slo}}"),),
        width=12,
    ),
    Panel(
        "How fast error budgets burn, over three days",
        "Above 1 the objective will be missed.",
        "none",
        (Query("deltafleet:slo_burn:ratio_rate3d", "{{slo}}"),),
        width=12,
    ),
)
TRAFFIC = (
    Panel(
        "Requests by model",
        "Per second.",
        "reqps",
        (Query(f"sum by (model) (rate(deltafleet_requests_total{{{MODEL}}}{RATE}))", "{{model}}"),),
        is_stacked=True,
    ),
    Panel(
        "Requests by outcome",
        "Per second.",
        "reqps",
        (
            Query(
                f"sum by (outcome) (rate(deltafleet_requests_total{{{MODEL}}}{RATE}))",
                "{{outcome}}",
            ),
        ),
        is_stacked=True,
    ),
    Panel(
        "Calls for an answer by status",
        "Per second; with the reason of what was refused.",
        "reqps",
        (
            Query(
                "sum by (grpc_code, reason) "
                f"(rate(deltafleet_grpc_server_handled_total{{{ANSWERS}}}{RATE}))",
                "{{grpc_code}} {{reason}}",
            ),
        ),
    ),
    Panel(
        "Why models were chosen",
        "Routed requests per second.",
        "reqps",
        (
            Query(
                f"sum by (reason) (rate(deltafleet_requests_total{{{MODEL}}}{RATE}))", "{{reason}}"
            ),
        ),
        is_stacked=True,
    ),
    Panel(
        "Which step decided",
        "Decisions per second.",
        "reqps",
        (
            Query(
                f"sum by (decided_by) (rate(deltafleet_route_decisions_total{RATE}))",
                "{{decided_by}}",
            ),
        ),
        is_stacked=True,
    ),
    Panel(
        "Tokens",
        "Per second.",
        "none",
        (
            Query(f"sum(rate(deltafleet_prompt_tokens_total{{{MODEL}}}{RATE}))", "prompt"),
            Query(f"sum(rate(deltafleet_output_tokens_total{{{MODEL}}}{RATE}))", "output"),
        ),
    ),
    Panel(
        "Requests in flight",
        "At the gateways.",
        "none",
        (Query("sum(deltafleet_requests_in_flight)", "in flight"),),
        width=12,
    ),
    Panel(
        "What the gateways run",
        "One line per version and configuration; several for long: a roll-out that stopped.",
        "none",
        (
            Query("count by (version) (deltafleet_build_info)", "version {{version}}"),
            Query("count by (sha256) (deltafleet_config_info)", "configuration {{sha256}}"),
        ),
        width=12,
    ),
)
WORKERS = (
    Panel(
        "Takes requests",
        "1: yes.",
        "none",
        (Query(f"max by (worker) (deltafleet_worker_up{{{WORKER}}})", "{{worker}}"),),
    ),
    Panel(
        "Utilisation",
        "The share of its time in which a worker computes.",
        "percentunit",
        (Query(f"deltafleet:worker_utilisation:ratio_rate5m{{{WORKER}}}", "{{worker}}"),),
    ),
    Panel(
        "Building or switching weights",
        "The share of a worker's time.",
        "percentunit",
        (
            Query(
                f'deltafleet:worker_state:ratio_rate5m{{{WORKER}, state=~"load|switch"}}',
                "{{worker}} {{state}}",
            ),
        ),
    ),
    Panel(
        "Requests on each worker",
        "",
        "none",
        (
            Query(
                f"max by (worker) (deltafleet_worker_running_requests{{{WORKER}}})",
                "{{worker}} computes",
            ),
            Query(
                f"max by (worker) (deltafleet_worker_waiting_requests{{{WORKER}}})",
                "{{worker}} waiting",
            ),
        ),
    ),
    Panel(
        "Weights in memory",
        "Against what they may take.",
        "bytes",
        (
            Query(
                f"max by (worker, model) (deltafleet_model_loaded_bytes{{{WORKER}, {MODEL}}})",
                "{{worker}} {{model}}",
            ),
            Query(
                f"max by (worker) (deltafleet_worker_memory_budget_bytes{{{WORKER}}})",
                "{{worker}} may hold",
            ),
        ),
    ),
    Panel(
        "Changes of weights",
        "Per second.",
        "ops",
        (
            Query(
                f"max by (worker) (rate(deltafleet_worker_switch_seconds_count{{{WORKER}}}{RATE}))",
                "{{worker}}",
            ),
        ),
    ),
    Panel(
        "Prompts read",
        "Tokens per second of reading prompts (prefill).",
        "none",
        (Query(f"deltafleet:worker_prefill_tokens_per_second:rate5m{{{WORKER}}}", "{{worker}}"),),
        width=12,
    ),
    Panel(
        "Answers written",
        "Tokens per second of going on with answers (decode), of all requests in a step.",
        "none",
        (Query(f"deltafleet:worker_decode_tokens_per_second:rate5m{{{WORKER}}}", "{{worker}}"),),
        width=12,
    ),
    Panel(
        "Up since",
        "A step back to 0 is a new start.",
        "s",
        (
            Query(
                f"time() - max by (worker) (deltafleet_worker_start_time_seconds{{{WORKER}}})",
                "{{worker}}",
            ),
        ),
        width=12,
    ),
    Panel(
        "Price",
        "USD per hour.",
        "currencyUSD",
        (
            Query(
                f"max by (worker) (deltafleet_worker_price_usd_per_hour{{{WORKER}}})", "{{worker}}"
            ),
        ),
        width=12,
    ),
)
ROWS = {
    "Money": MONEY,
    "Latency": LATENCY,
    "Traffic and routing": TRAFFIC,
    "Doors, limits and faults": DOORS,
    "Workers": WORKERS,
}
