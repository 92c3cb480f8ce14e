"""deltafleet models, deltafleet costs."""

from __future__ import annotations

import json
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from deltafleet.v1 import cost_pb2, cost_pb2_grpc, fleet_pb2, fleet_pb2_grpc, routing_pb2
from gateway.commands.connection import call, json_option, saving, server_option, usd


@click.command(epilog="Example: deltafleet models --server 127.0.0.1:7070")
@server_option
@json_option
def models(server: str, as_json: bool) -> None:
    """List the models: how they are stored, and where they are live."""
    found = call(server, _all_models)
    if as_json:
        click.echo(json.dumps({"models": [_as_dict(model) for model in found]}))
        return
    table = Table("model", "kind", "codec", "stored KiB", "of full", "quality", "live on")
    for model in found:
        full = model.full_size_bytes
        table.add_row(
            model.name,
            routing_pb2.ModelKind.Name(model.kind).removeprefix("MODEL_KIND_").lower(),
            model.fault or model.codec,
            f"{model.stored_size_bytes / 1024:,.0f}",
            f"{model.stored_size_bytes / full:.1%}" if full else "-",
            f"{model.quality:.2f}",
            ", ".join(place.worker for place in model.placements) or "-",
        )
    Console().print(table)


async def _all_models(channel: grpc.aio.Channel) -> list[fleet_pb2.Model]:
    stub = fleet_pb2_grpc.FleetServiceStub(channel)
    found: list[fleet_pb2.Model] = []
    token = ""
    while True:
        page = await stub.ListModels(fleet_pb2.ListModelsRequest(page_token=token))
        found += page.models
        token = page.next_page_token
        if not token:
            return found


@click.command(epilog="Example: deltafleet costs --json")
@server_option
@json_option
def costs(server: str, as_json: bool) -> None:
    """Show what was spent per model, and what closed APIs would have charged."""

    async def get(channel: grpc.aio.Channel) -> cost_pb2.GetCostReportResponse:
        stub = cost_pb2_grpc.CostServiceStub(channel)
        return await stub.GetCostReport(cost_pb2.GetCostReportRequest())

    report = call(server, get)
    if as_json:
        click.echo(json.dumps(_as_dict(report)))
        return
    console = Console()
    console.print(_model_table(report))
    console.print(_worker_table(report))


def _model_table(report: cost_pb2.GetCostReportResponse) -> Table:
    baselines = sorted({one.baseline for model in report.models for one in model.baselines})
    table = Table("model", "requests", "answered", "tokens in", "tokens out", "USD")
    for name in baselines:
        table.add_column(f"{name} USD")
        table.add_column("saving")
    for model in report.models:
        theirs = {one.baseline: one.cost_nano_usd for one in model.baselines}
        cells = [
            str(model.request_count),
            str(model.answered_count),
            f"{model.prompt_token_count:,}",
            f"{model.output_token_count:,}",
            usd(model.cost_nano_usd),
        ]
        for name in baselines:
            cells += [usd(theirs.get(name, 0)), saving(model.cost_nano_usd, theirs.get(name, 0))]
        table.add_row(model.model, *cells)
    return table


def _worker_table(report: cost_pb2.GetCostReportResponse) -> Table:
    table = Table("worker", "up s", "busy s", "loading s", "USD", "of which idle")
    for life in report.workers:
        table.add_row(
            life.worker,
            f"{life.uptime_s:,.1f}",
            f"{life.busy_s:,.1f}",
            f"{life.load_s:,.1f}",
            usd(life.uptime_cost_nano_usd),
            usd(life.idle_cost_nano_usd),
        )
    return table


def _as_dict(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found
