"""What any gRPC client relies on: health, reflection, and clients in other languages."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

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


async def test_a_caller_without_our_protos_calls_by_reflection(fleet: Fleet) -> None:
    prompt = TASKS["sentiment"].generate(random.Random(5)).prompt
    answer = await asyncio.to_thread(call_by_reflection, fleet.address, prompt)

    assert answer.decision.model == "sentiment"
    assert answer.text == (await fleet.ask(prompt)).text


def call_by_reflection(address: str, prompt: str) -> object:
    """What grpcurl does: message types from the server, none from this repository."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        service = pool.FindServiceByName("deltafleet.v1.InferenceService")
        method = service.FindMethodByName("Generate")
        request = GetMessageClass(method.input_type)(prompt=prompt)
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return call(request)


async def test_the_readmes_python_client_works(fleet: Fleet) -> None:
    readme = (REPO / "README.md").read_text()
    code = readme.partition("```python\n")[2].partition("```")[0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code.replace("127.0.0.1:7070", fleet.address)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()

    assert process.returncode == 0
    assert "82" in output.decode()
    assert "nano-dollars" in output.decode()
