"""deltafleet models."""

from __future__ import annotations

import json
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from deltafleet.v1 import fleet_pb2, fleet_pb2_grpc, routing_pb2
from gateway.commands.connection import call, json_option, server_option


@click.command(epilog="Example: deltafleet models --server 127.0.0.1:7070")
@server_option
@json_option
def models(server: str, as_json: bool) -> None:
    """List the models: how they are stored, and where they are live."""
    found = call(server, _all_models)
    if as_json:
        click.echo(json.dumps({"models": [as_dict(model) for model in found]}))
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


def as_dict(message: Any) -> dict[str, Any]:
    """A message as JSON has it, with its zeros."""
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found
