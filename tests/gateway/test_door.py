"""What any gRPC client relies on: health, reflection, and clients in other languages."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToJson
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deltafleet.v1 import inference_pb2
from examples.demo.tasks import TASKS
from support.fleet import REPO, Fleet

SERVICES = {
    "deltafleet.v1.InferenceService",
    "deltafleet.v1.RoutingService",
    "deltafleet.v1.FleetService",
    "deltafleet.v1.CostService",
}


async def test_health_says_serving_for_each_service(fleet: Fleet) -> None:
    for service in ("", *SERVICES):
        answer = await fleet.health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services(fleet: Fleet) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(fleet.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([request]))
    answers = [answer async for answer in call]
    names = {one.name for one in answers[0].list_services_response.service}

    assert {*SERVICES, "grpc.health.v1.Health"} <= names


async def test_a_node_client_drives_it(
    fleet: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    prompt = TASKS["translation"].generate(random.Random(5)).prompt
    expected = await fleet.ask(prompt)
    seen = await run_node(fleet, {"prompt": prompt}, long_request)

    assert seen["unary"]["text"] == seen["stream"]["text"] == seen["after"]["text"] == expected.text
    assert seen["unary"]["decision"]["model"] == "translation"
    assert seen["stream"]["decisions"] == 1
    assert seen["stream"]["texts"] > 1
    assert seen["stream"]["summary"]["cost_nano_usd"] > 0
    assert seen["cancel"] == grpc.StatusCode.CANCELLED.value[0]
    assert seen["deadline"]["code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert seen["empty"]["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def run_node(
    fleet: Fleet, short: dict[str, object], long_request: inference_pb2.GenerateRequest
) -> dict[str, object]:
    """What tests/node/client.js saw."""
    process = await asyncio.create_subprocess_exec(
        *("node", "client.js", fleet.address, str(REPO / "proto")),
        *(json.dumps(short), MessageToJson(long_request, preserving_proto_field_name=True)),
        cwd=REPO / "tests" / "node",
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)
