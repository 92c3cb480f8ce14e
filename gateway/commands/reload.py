"""deltafleet reload."""

from __future__ import annotations

import click
import grpc

from deltafleet.v1 import admin_pb2, admin_pb2_grpc
from gateway.commands.connection import call, server_option


@click.command(epilog="Example: deltafleet reload --server 127.0.0.1:7070")
@server_option
def reload(server: str) -> None:
    """Let a running gateway read its fleet.yaml again; exit code 1 where that is refused."""
    click.echo(f"in force: {call(server, _reload)}")


async def _reload(channel: grpc.aio.Channel) -> str:
    answer = await admin_pb2_grpc.AdminServiceStub(channel).ReloadConfig(
        admin_pb2.ReloadConfigRequest()
    )
    return answer.sha256
