"""A run → report.json, and report.html beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.machine import facts
from deltafleet.v1 import cost_pb2
from loadtests import plots
from loadtests.figures import SHARES, grouped, prices, spread, summarise, usd_per_mtok
from loadtests.limits import check
from loadtests.record import Record
from loadtests.running import Phase, Run
from loadtests.saturation import class_figures, saturation, shed_quantile_s
from loadtests.scenario import Scenario
from loadtests.wording import in_percent, in_seconds, in_usd

FORMAT = 1
PACKAGES = ("deltafleet", "grpcio", "locust", "torch")
COLUMNS = ("phase", "at_s", "total_s", "first_token_s", "per_token_s", "reason", "is_good")
MARKS = ("is_routed", "is_right")
COUNTS = ("cost_nano_usd", "prompt_token_count", "output_token_count")


def make_report(
    name: str, scenario: Scenario, run: Run, *, generators: int, host: str
) -> dict[str, Any]:
    """Everything that a run showed, as JSON takes it. host: "" where the demo fleet was started."""
    seconds = sum(phase.seconds for phase in run.phases)
    records = run.records
    report: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "scenario": scenario.model_dump(mode="json"),
        "host": host,
        "machine": facts(PACKAGES),
        "phases": [_phase(phase) for phase in run.phases],
        "generator": {
            "processes": max(1, generators),
            "lag_s": spread(one.lag_s for one in records),
            "outside_s": spread(one.outside_s for one in records),
        },
        "all": summarise(records, seconds),
        "callers": {
            caller: summarise(own, seconds)
            for caller, own in grouped(records, lambda one: one.caller).items()
        },
        "tasks": {
            task: summarise(own, seconds)
            for task, own in grouped(records, lambda one: one.task).items()
        },
        "prices": _with_idle(prices(records), run.costs),
        "saturation": _saturation(run) if scenario.ramp else None,
        "samples": [one.to_json() for one in run.samples],
        "gateways": {
            "requests": run.after.requests - run.before.requests,
            "cost_nano_usd": run.after.cost_nano_usd - run.before.cost_nano_usd,
            "baselines_nano_usd": {
                baseline: cost - run.before.baselines_nano_usd.get(baseline, 0)
                for baseline, cost in run.after.baselines_nano_usd.items()
            },
        },
        "ledger": _ledger(run.costs),
        "requests": _columns(records),
    }
    verdicts = check(scenario, report)
    report["limits"] = [one.to_json() for one in verdicts]
    report["passed"] = all(one.holds for one in verdicts)
    report["valid"] = verdicts[0].holds  # the generator's own lag
    return report


def write_report(report: dict[str, Any], directory: Path) -> Path:
    """report.json and report.html; returns the latter."""
    (directory / "report.json").write_text(json.dumps(report, separators=(",", ":")))
    page = directory / "report.html"
    page.write_text(render(report), encoding="utf-8")
    return page


def read_report(path: Path) -> dict[str, Any]:
    """A report.json, or that of a directory. Raises ValueError where it is none of ours."""
    file = path / "report.json" if path.is_dir() else path
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if report.get("format") != FORMAT:
        raise ValueError(f"{file}: not a report of this version")
    return report


def render(report: dict[str, Any]) -> str:
    """The page, whole: its pictures are in it, and it loads nothing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": in_seconds, "share": in_percent, "usd": in_usd}
    return environment.get_template("report.html").render(
        report=report, pictures=plots.draw_all(report)
    )


def _phase(phase: Phase) -> dict[str, Any]:
    return {
        "began_at": phase.began_at,
        "seconds": phase.seconds,
        "stages": [[one.model_dump() for one in own] for own in phase.stages],
        "events": phase.events,
    }


def _saturation(run: Run) -> dict[str, Any]:
    ramp, *calm, overload = run.phases
    found = saturation(ramp.records, ramp.stages[0], overload.records, overload.seconds)
    edges = (run.before.shed, run.after.shed)
    shed = {name: shed_quantile_s(*edges, share) for name, share in SHARES.items()}
    classes = {}
    if calm:
        classes = class_figures(calm[0].records, overload.records, overload.seconds)
    return found | {"shed_s": shed, "classes": classes}


def _with_idle(
    found: dict[str, dict[str, Any]], costs: cost_pb2.GetCostReportResponse
) -> dict[str, dict[str, Any]]:
    """Also what the ledger allots to each model of the workers' idle and loading time."""
    groups = {one.key["model"]: one for one in costs.groups}
    for model, price in found.items():
        group = groups.get(model)
        tokens = group.prompt_token_count + group.output_token_count if group else 0
        effective = group.effective_cost_nano_usd if group else 0
        price["with_idle_usd_per_mtok"] = usd_per_mtok(effective, tokens)
    return found


def _ledger(costs: cost_pb2.GetCostReportResponse) -> dict[str, Any]:
    total = costs.total
    return {
        "requests": total.request_count,
        "answered": total.answered_count,
        "cost_nano_usd": total.cost_nano_usd,
        "baselines_nano_usd": {one.baseline: one.cost_nano_usd for one in total.baselines},
    }


def _columns(records: list[Record]) -> dict[str, list[Any]]:
    """What a comparison needs of each request; seconds to a tenth of a millisecond."""
    found = {}
    for name in (*COLUMNS, *MARKS, *COUNTS):
        values = [getattr(one, name) for one in records]
        found[name] = [round(one, 4) if isinstance(one, float) else one for one in values]
    return found
