"""What the gateway and its workers log of calls: their ids always, their texts never."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc

from deltafleet.v1 import inference_pb2, routing_pb2
from support.fleet import Fleet, refusal, running_fleet, until

MARK = "marzipan"
WITHIN_A_CALL = {"request_finished", "call_refused", "run_not_settled"}


def logged(fleet: Fleet, *events: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in fleet.lines]
    return [one for one in found if one["event"] in events]


async def test_a_storm_leaves_ids_and_no_texts(tmp_path: Path) -> None:
    async with running_fleet(tmp_path) as fleet:
        stub, prompt = fleet.inference, f"Write the {MARK} in SQL."
        ask = inference_pb2.GenerateRequest
        requests = [
            ask(prompt=prompt, max_output_token_count=8),
            ask(prompt=prompt, model="sql", max_output_token_count=8),
            ask(prompt=f"{MARK} " * 4000),
            ask(prompt=prompt, model=f"no-{MARK}"),
            ask(prompt=prompt, stop=[MARK] * 17),
            ask(prompt=prompt, messages=[{"role": routing_pb2.ROLE_USER, "content": MARK}]),
            ask(prompt=prompt, temperature=9),
        ]
        calls = [
            stub.Generate(request, metadata=(("x-request-id", f"{name}-{number}"),), timeout=60)
            for number, request in enumerate(requests)
            for name in ("a", "b")
        ]
        late = stub.Generate(requests[0], metadata=(("x-request-id", "late"),), timeout=0.001)
        ended = await asyncio.gather(*calls, late, return_exceptions=True)
        assert sum(isinstance(one, grpc.aio.AioRpcError) for one in ended) == 11
        own = [f"{name}-{number}" for number in range(len(requests)) for name in ("a", "b")]

        async def all_are_logged() -> bool:
            ids = {one.get("request_id") for one in logged(fleet, *WITHIN_A_CALL)}
            return set(own) <= ids

        await until(all_are_logged)
        assert await fleet.stop() == 0
    for one in logged(fleet, *WITHIN_A_CALL):
        assert one["request_id"], one
    # A model's name is no text of a prompt: the caller gave it as one, and hears it in the error.
    assert not [line for line in fleet.lines if MARK in line]


async def test_a_refused_call_is_logged_with_its_reason(fleet: Fleet) -> None:
    call = fleet.inference.Generate(
        inference_pb2.GenerateRequest(), metadata=(("x-request-id", "empty-1"),)
    )
    assert (await refusal(call)).reason == "ERROR_REASON_EMPTY_PROMPT"

    async def is_logged() -> bool:
        return any(one["request_id"] == "empty-1" for one in logged(fleet, "call_refused"))

    await until(is_logged)
    found = [one for one in logged(fleet, "call_refused") if one["request_id"] == "empty-1"]
    assert len(found) == 1
    assert found[0]["reason"] == "empty_prompt"
    assert found[0]["code"] == "INVALID_ARGUMENT"
    assert 0 < found[0]["total_us"] < 10**8
    assert found[0]["method"] == "deltafleet.v1.InferenceService/Generate"
