"""deltafleet config."""

from __future__ import annotations

import click
import grpc

from deltafleet.v1 import admin_pb2, admin_pb2_grpc
from gateway.commands.connection import call, server_option


@click.command(epilog="Example: deltafleet config --server 127.0.0.1:7070")
@server_option
def config(server: str) -> None:
    """Print the configuration that a gateway runs on, without its secrets."""

    async def ask(channel: grpc.aio.Channel) -> admin_pb2.GetConfigResponse:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        answer: admin_pb2.GetConfigResponse = await stub.GetConfig(admin_pb2.GetConfigRequest())
        return answer

    found = call(server, ask)
    loaded = found.loaded_time.ToDatetime().isoformat(timespec="seconds")
    click.echo(f"# sha256 {found.sha256}, read at {loaded}Z")
    click.echo(found.yaml, nl=False)
