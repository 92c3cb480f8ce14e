"""The demo fleet with its HTTP door open, and OpenAI's own clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from support.fleet import Fleet, running_fleet
from support.http_door import client_of, http_address


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def open_fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """The demo fleet, both doors open."""
    directory = tmp_path_factory.mktemp("http")
    async with running_fleet(directory, server__http="127.0.0.1:0") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(open_fleet: Fleet) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, which does not try again by itself."""
    async with client_of(open_fleet) as made:
        yield made


@pytest.fixture(scope="session")
def address(open_fleet: Fleet) -> str:
    """host:port of the door."""
    return http_address(open_fleet)
