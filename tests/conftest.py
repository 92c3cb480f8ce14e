"""One fleet for all tests that do it no harm."""

from __future__ import annotations

import asyncio
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
    """A request whose answer is long: the seed is looked for, a batch of seeds at a time."""
    for start in range(0, 1600, 32):
        requests = [
            inference_pb2.GenerateRequest(
                prompt="The sea", model="base", temperature=2, seed=seed, max_output_token_count=400
            )
            for seed in range(start, start + 32)
        ]
        answers = await asyncio.gather(*map(fleet.inference.Generate, requests))
        for request, answer in zip(requests, answers, strict=True):
            if answer.summary.output_token_count >= LONG_TOKEN_COUNT:
                return request
    raise AssertionError("no seed gives a long answer")
