"""The HTTP door of a running fleet: where it is, and clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx2
import openai
from starlette.applications import Starlette
from starlette.routing import Route

from gateway.http_door.frame import Endpoint, Frame, Rules, admit_by_name
from gateway.http_door.server import HttpDoor
from support.fleet import Fleet

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def http_address(fleet: Fleet) -> str:
    """host:port, as the fleet logged it."""
    for line in fleet.lines:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "http_listening":
            return str(event["address"])
    raise AssertionError("no HTTP address was logged")


def client_of(fleet: Fleet, **settings: object) -> openai.AsyncOpenAI:
    """OpenAI's client, which does not try again by itself unless told."""
    settings = {"max_retries": 0, "api_key": "none", **settings}
    return openai.AsyncOpenAI(base_url=f"http://{http_address(fleet)}/v1", **settings)


def raw_of(fleet: Fleet) -> httpx2.AsyncClient:
    """A plain HTTP client."""
    return httpx2.AsyncClient(base_url=f"http://{http_address(fleet)}", timeout=120)


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one turn."""
    return [{"role": "user", "content": text}]


def events_of(body: str) -> list[str]:
    """The data of every server-sent event."""
    parts = body.removesuffix("\n\n").split("\n\n")
    assert all(part.startswith("data: ") for part in parts), parts
    return [part.removeprefix("data: ") for part in parts]


@contextlib.asynccontextmanager
async def door_of(endpoint: Endpoint, **rules: object) -> AsyncIterator[HttpDoor]:
    """A door in this process behind which there is one endpoint, for chats. door.ended: how
    requests ended, as metrics are told.
    """
    ended: list[tuple[str, int, str]] = []
    plain = {"max_message_bytes": 2**20, "default_deadline_s": 120, "admit": admit_by_name}
    every = Rules(on_end=lambda *end: ended.append(end), **{**plain, **rules})
    door = HttpDoor("127.0.0.1:0", 1)
    door.ended = ended
    routes = [Route(CHAT, Frame(CHAT, endpoint, every, has_body=True), methods=["POST"])]
    await door.start(Starlette(routes=routes))
    try:
        yield door
    finally:
        await door.stop()


@contextlib.asynccontextmanager
async def connected(
    address: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def chat_bytes(body: bytes, *headers: str) -> bytes:
    """A request as it goes over the wire."""
    lines = [
        f"POST {CHAT} HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
