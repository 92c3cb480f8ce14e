"""deltafleet costs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click
import grpc
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deltafleet.v1 import cost_pb2, cost_pb2_grpc
from gateway.commands.connection import call, saving, server_option, usd
from gateway.commands.report import as_dict
from gateway.pricing import to_usd

FORMATS = ("table", "json", "csv")
STALE = " (STALE)"
Report = cost_pb2.GetCostReportResponse


def read_moment(ctx: Any, option: Any, text: str | None) -> datetime | None:
    """A day or a time of ISO 8601; UTC where it has no zone."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no day (2026-11-20) and no time (2026-11-20T12:00+01:00)"
        ) from None


@click.command(
    epilog="Example: deltafleet costs --by model,day --from 2026-11-01 --format csv",
)
@server_option
@click.option("--by", default="model", show_default=True, help="Of model, task, caller, day.")
@click.option(
    "--from", "start", callback=read_moment, help="A day or time, UTC where it has no zone."
)
@click.option("--to", "end", callback=read_moment, help="Before this day or time.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def costs(
    server: str, by: str, start: datetime | None, end: datetime | None, form: str, as_json: bool
) -> None:
    """Show what was spent, with idle time, and what closed APIs would have charged.

    Loading, switching and idle time is shared out by busy time. Savings are on requests that were
    answered, and are shown with that share and without it.
    """
    dimensions = [one.strip() for one in by.split(",")]
    request = cost_pb2.GetCostReportRequest(by=dimensions)
    if start:
        request.start_time.FromDatetime(start)
    if end:
        request.end_time.FromDatetime(end)

    async def get(channel: grpc.aio.Channel) -> Report:
        return await cost_pb2_grpc.CostServiceStub(channel).GetCostReport(request)

    report = call(server, get)
    if as_json or form == "json":
        click.echo(json.dumps(as_dict(report)))
    elif form == "csv":
        click.echo(as_csv(report, dimensions), nl=False)
    else:
        show(report, dimensions)


def show(report: Report, by: list[str]) -> None:
    """Print the report as tables."""
    console = Console()
    console.print(_cost_table(report, by))
    click.echo(_sum(report.total))
    if report.total.baselines:
        console.print(_baseline_table(report, by))
    console.print(_worker_table(report))
    for one in report.baselines:
        click.echo(_assumptions(one))
    if report.unallotted_nano_usd:
        click.echo(f"Idle while nothing was asked: {usd(report.unallotted_nano_usd)} USD.")


def _cost_table(report: Report, by: list[str]) -> Table:
    table = _table(by, ["answered", "tokens", "USD", "with idle", "USD/M out", "with idle"])
    for one in (*report.groups, report.total):
        tokens = one.prompt_token_count + one.output_token_count
        table.add_row(
            *_key(one, by),
            f"{one.answered_count}/{one.request_count}",
            f"{tokens:,}",
            usd(one.cost_nano_usd),
            usd(one.effective_cost_nano_usd),
            _rate(one, "nano_usd_per_mtok_output"),
            _rate(one, "effective_nano_usd_per_mtok_output"),
            end_section=one is report.groups[-1] if report.groups else False,
        )
    return table


def _baseline_table(report: Report, by: list[str]) -> Table:
    table = _table([*by, "instead"], ["USD", "saved", "with idle", "pays from\na day"])
    for one in (*report.groups, report.total):
        for theirs in one.baselines:
            table.add_row(
                *_key(one, by),
                f"{theirs.baseline}{STALE if theirs.price_is_stale else ''}",
                usd(theirs.cost_nano_usd),
                saving(one.cost_nano_usd, theirs.cost_nano_usd),
                saving(one.effective_cost_nano_usd, theirs.cost_nano_usd),
                _break_even(theirs),
            )
    return table


def _table(names: list[str], amounts: list[str]) -> Table:
    """A table that folds names and never cuts an amount, however narrow the terminal is."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    for amount in amounts:
        table.add_column(amount, justify="right", no_wrap=True)
    return table


def _sum(total: cost_pb2.CostGroup) -> str:
    parts = {
        "requests": total.cost_nano_usd,
        "loading": total.loading_nano_usd,
        "switching": total.switching_nano_usd,
        "idle": total.idle_nano_usd,
    }
    told = " + ".join(f"{name} {usd(amount)}" for name, amount in parts.items())
    return f"{usd(total.effective_cost_nano_usd)} USD = {told}"


def _worker_table(report: Report) -> Table:
    table = _table(["worker"], ["up s", "computing", "loading", "switching", "idle", "USD"])
    for life in report.workers:
        table.add_row(
            life.worker,
            f"{life.uptime_s:,.1f}",
            usd(life.busy_cost_nano_usd),
            usd(life.load_cost_nano_usd),
            usd(life.switch_cost_nano_usd),
            usd(life.idle_cost_nano_usd),
            usd(life.uptime_cost_nano_usd),
        )
    return table


def _assumptions(one: cost_pb2.Baseline) -> str:
    """How a baseline's charges were estimated."""
    said = [
        f"{one.baseline}: {one.price} as of {one.as_of}{STALE if one.price_is_stale else ''}",
        f"{one.input_usd_per_mtok} in, {one.output_usd_per_mtok} out (USD per million tokens)",
        f"tokens counted with {one.tokenizer}"
        if one.tokenizer
        else f"{one.characters_per_token} characters per token ({one.characters_per_token_is})",
    ]
    if one.cached_input_share != "0":
        said.append(f"{one.cached_input_share} of prompts from its cache")
    if one.reasoning_multiplier != "1":
        said.append(f"{one.reasoning_multiplier} output tokens billed per visible one")
    if one.is_batch:
        said.append("in batches")
    return f"{', '.join(said)}. {one.source}"


def as_csv(report: Report, by: list[str]) -> str:
    """One line per group; amounts in USD to the last nano-dollar, empty where there is none."""
    names = [one.baseline for one in report.total.baselines]
    rows = [_csv_row(one, by, names) for one in report.groups]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_csv_header(by, names))
    writer.writerows(rows)
    return text.getvalue()


AMOUNTS = {
    "cost_usd": "cost_nano_usd",
    "overhead_usd": "overhead_nano_usd",
    "loading_usd": "loading_nano_usd",
    "switching_usd": "switching_nano_usd",
    "idle_usd": "idle_nano_usd",
    "effective_cost_usd": "effective_cost_nano_usd",
    "usd_per_mtok_output": "nano_usd_per_mtok_output",
    "usd_per_mtok": "nano_usd_per_mtok",
    "effective_usd_per_mtok_output": "effective_nano_usd_per_mtok_output",
}
OPTIONAL = ("nano_usd_per_mtok_output", "nano_usd_per_mtok", "effective_nano_usd_per_mtok_output")
COUNTS = ("request_count", "answered_count", "prompt_token_count", "output_token_count")
COMPARED: dict[str, Callable[[cost_pb2.BaselineComparison], str]] = {
    "cost_usd": lambda one: _exact_usd(one.cost_nano_usd),
    "saving_usd": lambda one: _exact_usd(one.saving_nano_usd),
    "saving_share": lambda one: _share(one.saving_nano_usd, one.cost_nano_usd),
    "effective_saving_usd": lambda one: _exact_usd(one.effective_saving_nano_usd),
    "effective_saving_share": lambda one: _share(one.effective_saving_nano_usd, one.cost_nano_usd),
    "break_even_requests_per_day": lambda one: _break_even(one, unknown=""),
    "price_is_stale": lambda one: str(one.price_is_stale).lower(),
}


def _csv_header(by: list[str], names: list[str]) -> list[str]:
    compared = [f"{name}_{column}" for name in names for column in COMPARED]
    return [*by, *COUNTS, "busy_us", *AMOUNTS, *compared]


def _csv_row(group: cost_pb2.CostGroup, by: list[str], names: list[str]) -> list[str]:
    theirs = {one.baseline: one for one in group.baselines}
    amounts = (
        _exact_usd(getattr(group, field)) if _is_set(group, field) else ""
        for field in AMOUNTS.values()
    )
    compared = (
        tell(theirs[name]) if name in theirs else "" for name in names for tell in COMPARED.values()
    )
    return [
        *(group.key[one] for one in by),
        *(str(getattr(group, name)) for name in COUNTS),
        str(group.busy_time.ToMicroseconds()),
        *amounts,
        *compared,
    ]


def _exact_usd(nano_usd: int) -> str:
    sign = "-" if nano_usd < 0 else ""
    whole, parts = divmod(abs(nano_usd), 10**9)
    return f"{sign}{whole}.{parts:09d}"


def _is_set(group: cost_pb2.CostGroup, field: str) -> bool:
    return field not in OPTIONAL or group.HasField(field)  # type: ignore[arg-type]


def _rate(group: cost_pb2.CostGroup, field: str) -> str:
    return f"{to_usd(getattr(group, field)):,.4f}" if _is_set(group, field) else "-"


def _key(group: cost_pb2.CostGroup, by: list[str]) -> list[str]:
    if not group.key:
        return ["all", *[""] * (len(by) - 1)]
    return [group.key[one] or "-" for one in by]


def _share(part: int, whole: int) -> str:
    return f"{Decimal(part) / whole:.6f}" if whole else ""


def _break_even(theirs: cost_pb2.BaselineComparison, unknown: str = "-") -> str:
    if theirs.never_breaks_even:
        return "never"
    if theirs.HasField("break_even_requests_per_day"):
        return f"{theirs.break_even_requests_per_day}"
    return unknown
