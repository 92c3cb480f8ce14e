"""RESULTS.md: the figures of every scenario on one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import table
from loadtests.wording import in_percent, in_seconds, in_usd

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = (
    *("scenario", "sent", "per s", "good per s", "errors"),
    *("first token p50", "p99", "total p50", "p99", "routed right", "answers right", "limits"),
)

Report = Mapping[str, Any]


def render_results(reports: Sequence[Report]) -> str:
    """Markdown."""
    lines = [
        "# Load tests: what was measured",
        "",
        "Written by `make load-results`. Gateway, workers and the load's generator share the",
        "machine below. Latencies count from each request's scheduled arrival. A good answer is",
        "whole, and within its caller's deadline. `make load SCENARIO=...` runs one and draws it.",
        "",
        table(HEAD, [_row(report) for report in reports]),
        "",
        *(f"- **{report['name']}**: {report['scenario']['description']}" for report in reports),
        "",
    ]
    for report in reports:
        lines += _saturation(report) + _callers(report) + _events(report)
    lines += _prices(reports) + _broken(reports)
    facts = reports[-1]["machine"]
    lines += ["## The machine", "", table(("", ""), [(key, facts[key]) for key in facts]), ""]
    return "\n".join(lines)


def _row(report: Report) -> tuple[str, ...]:
    one = report["all"]
    errors = ", ".join(f"{count} {reason}" for reason, count in one["errors"].items())
    return (
        report["name"],
        *(f"{one['sent']}", f"{one['offered_rate']:.1f}", f"{one['goodput']:.1f}"),
        errors or "none",
        *(in_seconds(one["first_token_s"][share]) for share in ("p50", "p99")),
        *(in_seconds(one["total_s"][share]) for share in ("p50", "p99")),
        *(in_percent(one[name]) for name in ("route_accuracy", "answer_accuracy")),
        ("hold" if report["passed"] else "**broken**") + ("" if report["valid"] else ", not valid"),
    )


def _saturation(report: Report) -> list[str]:
    found = report["saturation"]
    if not found:
        return []
    reasons = ", ".join(f"{count} {reason}" for reason, count in found["reasons"].items())
    rates = [
        f"{found[key]:.1f}"
        for key in ("knee_rate", "peak_goodput", "overload_rate", "overload_goodput")
    ]
    p99s = [in_seconds(found[key]["p99"]) for key in ("total_s", "refusal_s")]
    return [
        f"## Saturation ({report['name']})",
        "",
        f"Saturated by {rates[0]} requests/s; at most {rates[1]} good answers/s. At {rates[2]}",
        f"requests/s: {rates[3]} good answers/s, **{found['kept']:.0%}** of that; p99 of answers",
        f"{p99s[0]}, of refusals {p99s[1]}. Refused or late: {reasons or 'none'}.",
        "",
        table(
            ("offered/s", "good answers/s", "refused or failed/s"),
            [
                tuple(f"{one[key]:.1f}" for key in ("offered_rate", "goodput", "refused_rate"))
                for one in found["steps"]
            ],
        ),
        "",
        *_classes(found),
    ]


def _classes(found: Mapping[str, Any]) -> list[str]:
    """What became of each class of a ramp's overload, where there are some."""
    if not found["classes"]:
        return []
    rows = [
        (
            caller,
            f"{one['offered_rate']:.1f}",
            in_percent(one["good_share"]),
            in_seconds(one["calm_first_token_s"]["p99"]),
            in_seconds(one["first_token_s"]["p99"]),
        )
        for caller, one in found["classes"].items()
    ]
    head = ("class", "offered/s", "good answers", "first token p99, calm", "crowded")
    shed = found["shed_s"]["p99"]
    return [
        table(head, rows),
        "",
        f"The gateway's own time to refuse, p99: at most {in_seconds(shed)}.",
        "",
    ]


def _callers(report: Report) -> list[str]:
    if len(report["callers"]) < 2:
        return []
    rows = [
        (caller, *_row({**report, "name": caller, "all": one})[1:-1])
        for caller, one in report["callers"].items()
    ]
    return [f"## Callers ({report['name']})", "", table(("caller", *HEAD[1:-1]), rows), ""]


def _events(report: Report) -> list[str]:
    events = [event for phase in report["phases"] for event in phase["events"]]
    if not events:
        return []
    rows = [(f"{at_s:.1f} s", what) for at_s, what in events]
    return [f"## Events ({report['name']})", "", table(("after", "what"), rows), ""]


def _prices(reports: Sequence[Report]) -> list[str]:
    steady = [report for report in reports if report["name"] == "steady"]
    if not steady:
        return []
    prices = steady[0]["prices"]
    baselines = sorted({name for one in prices.values() for name in one["baselines_usd_per_mtok"]})
    rows = [
        (
            model,
            *(in_usd(one[key]) for key in ("usd_per_mtok", "with_idle_usd_per_mtok")),
            *(in_usd(one["baselines_usd_per_mtok"].get(name)) for name in baselines),
        )
        for model, one in prices.items()
    ]
    head = ("USD per million tokens (steady)", "busy time", "with idle time", *baselines)
    return ["## Money", "", table(head, rows), ""]


def _broken(reports: Sequence[Report]) -> list[str]:
    broken = [
        f"- {report['name']}: {one['what']}: {one['measured']}, allowed {one['allowed']}"
        for report in reports
        for one in report["limits"]
        if not one["holds"]
    ]
    return ["## Limits that were broken", "", *broken, ""] if broken else []
