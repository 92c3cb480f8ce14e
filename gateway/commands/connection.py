"""What the commands that talk to a gateway share: its address, its failures in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, TypeVar

import click
import grpc

from deltafleet.v1.error_reason_pb2 import ErrorReason
from gateway.commands.client_channel import chosen_tls, open_channel, tls_options
from gateway.identity.settings import own_api_key
from gateway.pricing import to_usd
from model_pool.rpc import to_failure

Result = TypeVar("Result")

_address_option = click.option(
    "--server", default="127.0.0.1:7070", show_default=True, help="Address of the gateway."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def server_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the gateway is, and TLS; the key comes from DELTAFLEET_API_KEY."""
    return _address_option(tls_options(command))


def call(server: str, work: Callable[[grpc.aio.Channel], Awaitable[Result]]) -> Result:
    """Run work with a channel to the gateway; a failed call ends the command with exit code 1."""
    tls = chosen_tls(click.get_current_context())

    async def connected() -> Result:
        async with open_channel(server, tls, own_api_key()) as channel:
            return await work(channel)

    try:
        return asyncio.run(connected())
    except grpc.aio.AioRpcError as error:
        failure = to_failure(error)
        reason = ErrorReason.Name(failure.reason) if failure else error.code().name
        raise click.ClickException(f"{reason}: {error.details()}") from None


def usd(nano_usd: int) -> str:
    """Nano-dollars for people: 0.00000142 USD."""
    return f"{to_usd(nano_usd):.8f}"


def saving(ours_nano_usd: int, theirs_nano_usd: int) -> str:
    """How much cheaper ours is, in per cent."""
    if theirs_nano_usd <= 0:
        return "-"
    return f"{(1 - Decimal(ours_nano_usd) / theirs_nano_usd):.1%}"


def plain_usd(nano_usd: int) -> Any:
    """Nano-dollars as a JSON number of USD."""
    return float(to_usd(nano_usd))
