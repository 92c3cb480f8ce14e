"""What a request used, cost and saved, in its answer's `usage` and headers. Pure."""

from __future__ import annotations

from typing import Any

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.page.fleet import usd
from gateway.pricing import to_usd


def usage_json(summary: inference_pb2.Summary) -> dict[str, Any]:
    """OpenAI's `usage`; what is ours lies under `deltafleet`, in USD."""
    prompt, answer = summary.prompt_token_count, summary.output_token_count
    ours: dict[str, Any] = {
        "cost_usd": _number(summary.cost_nano_usd),
        "baselines": {one.baseline: _number(one.cost_nano_usd) for one in summary.baselines},
        "saving_usd": None,
    }
    saving = saving_nano_usd(summary)
    if saving is not None:
        ours["saving_usd"] = _number(saving)
    stale = [one.baseline for one in summary.baselines if one.price_is_stale]
    if stale:
        ours["stale_baselines"] = stale
    if summary.HasField("mean_logprob"):
        ours["mean_logprob"] = summary.mean_logprob
    if summary.is_repeat:
        ours["is_repeat"] = True
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "deltafleet": ours,
    }


def saving_nano_usd(summary: inference_pb2.Summary) -> int | None:
    """Beside the cheapest baseline, so that no more is claimed than is sure; None: there is none.

    Negative where that one would have been cheaper.
    """
    theirs = [one.cost_nano_usd for one in summary.baselines]
    return min(theirs) - summary.cost_nano_usd if theirs else None


def route_headers(decision: routing_pb2.Decision) -> dict[str, str]:
    """Where an answer came from."""
    reason = routing_pb2.RouteReason.Name(decision.reason).removeprefix("ROUTE_REASON_")
    return {
        "x-deltafleet-model": decision.model,
        "x-deltafleet-route-reason": reason.lower(),
        "x-deltafleet-task": decision.task,
    }


def cost_headers(summary: inference_pb2.Summary) -> dict[str, str]:
    """What it cost and saved, as exact decimal numbers of USD."""
    headers = {"x-deltafleet-cost-usd": usd(summary.cost_nano_usd)}
    saving = saving_nano_usd(summary)
    if saving is not None:
        headers["x-deltafleet-saving-usd"] = usd(saving)
    return headers


def _number(nano_usd: int) -> float:
    return float(to_usd(nano_usd))
