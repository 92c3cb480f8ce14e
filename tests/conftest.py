"""One fleet for all tests that do it no harm."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import settings

from deltafleet.v1 import inference_pb2
from support.fleet import LONG_TOKEN_COUNT, Fleet, running_fleet

# Some libraries ask a hub for what lies on the disk.
os.environ["HF_HUB_OFFLINE"] = "1"
# How long an example takes says nothing of what is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """The demo fleet, serving."""
    async with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def long_request(fleet: Fleet) -> inference_pb2.GenerateRequest:
    """A request whose answer is long: a repetition is what the demo's base goes on with."""
    request = inference_pb2.GenerateRequest(
        prompt=" ".join("I" * 100), model="base", max_output_token_count=400
    )
    answer = await fleet.inference.Generate(request)
    assert answer.summary.output_token_count >= LONG_TOKEN_COUNT
    return request
