"""Bad input: a clear status with its reason each, never INTERNAL, and the fleet serves on."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from deltafleet.v1 import cost_pb2, fleet_pb2, inference_pb2, routing_pb2
from support.fleet import Failure, Fleet, refusal

GENERATE = "/deltafleet.v1.InferenceService/Generate"
STREAM = "/deltafleet.v1.InferenceService/StreamGenerate"
USER, SYSTEM, ASSISTANT = (
    routing_pb2.ROLE_USER,
    routing_pb2.ROLE_SYSTEM,
    routing_pb2.ROLE_ASSISTANT,
)


def message(content: str, role: int = USER) -> dict[str, object]:
    return {"role": role, "content": content}


BAD_FIELDS = {
    "no prompt": ({}, "EMPTY_PROMPT"),
    "blank prompt": ({"prompt": " \n\t"}, "EMPTY_PROMPT"),
    "blank message": ({"messages": [message("")]}, "EMPTY_PROMPT"),
    "prompt and messages": ({"prompt": "a", "messages": [message("b")]}, "INVALID_PARAMETER"),
    "no role": ({"messages": [message("a", 0)]}, "INVALID_PARAMETER"),
    "role of the future": ({"messages": [message("a", 99)]}, "INVALID_PARAMETER"),
    "late system": ({"messages": [message("a"), message("b", SYSTEM)]}, "INVALID_PARAMETER"),
    "assistant last": ({"messages": [message("a"), message("b", ASSISTANT)]}, "INVALID_PARAMETER"),
    "too many messages": ({"messages": [message("a")] * 257}, "INVALID_PARAMETER"),
    "negative length": ({"prompt": "a", "max_output_token_count": -1}, "INVALID_PARAMETER"),
    "absurd length": ({"prompt": "a", "max_output_token_count": 2**31 - 1}, "INVALID_PARAMETER"),
    "negative temperature": ({"prompt": "a", "temperature": -0.1}, "INVALID_PARAMETER"),
    "high temperature": ({"prompt": "a", "temperature": 2.5}, "INVALID_PARAMETER"),
    "temperature NaN": ({"prompt": "a", "temperature": float("nan")}, "INVALID_PARAMETER"),
    "infinite temperature": ({"prompt": "a", "temperature": float("inf")}, "INVALID_PARAMETER"),
    "top_p 0": ({"prompt": "a", "top_p": 0.0}, "INVALID_PARAMETER"),
    "top_p NaN": ({"prompt": "a", "top_p": float("nan")}, "INVALID_PARAMETER"),
    "negative seed": ({"prompt": "a", "seed": -1}, "INVALID_PARAMETER"),
    "unknown priority": ({"prompt": "a", "priority": 9}, "INVALID_PARAMETER"),
    "empty stop": ({"prompt": "a", "stop": [""]}, "INVALID_PARAMETER"),
    "long stop": ({"prompt": "a", "stop": ["x" * 257]}, "INVALID_PARAMETER"),
    "many stops": ({"prompt": "a", "stop": ["x"] * 17}, "INVALID_PARAMETER"),
    "long session": ({"prompt": "a", "session": "x" * 129}, "INVALID_PARAMETER"),
    "bad quality": ({"prompt": "a", "constraints": {"min_quality": 1.5}}, "INVALID_PARAMETER"),
    "quality NaN": (
        {"prompt": "a", "constraints": {"min_quality": float("nan")}},
        "INVALID_PARAMETER",
    ),
    "negative cost": (
        {"prompt": "a", "constraints": {"max_cost_nano_usd": -1}},
        "INVALID_PARAMETER",
    ),
    "model and constraints": (
        {"prompt": "a", "model": "sql", "constraints": {"min_quality": 0.5}},
        "INVALID_PARAMETER",
    ),
    "prompt beyond the context": ({"prompt": "word " * 5000}, "PROMPT_TOO_LONG"),
}


@pytest.mark.parametrize("name", sorted(BAD_FIELDS))
async def test_bad_input_is_refused_with_its_reason(fleet: Fleet, name: str) -> None:
    fields, reason = BAD_FIELDS[name]
    failure = await refusal(fleet.ask(**fields))

    assert failure.code is StatusCode.INVALID_ARGUMENT
    assert failure.reason == f"ERROR_REASON_{reason}"
    assert failure.message


async def test_an_unknown_model_is_named(fleet: Fleet) -> None:
    failure = await refusal(fleet.ask("a", model="poetry"))

    assert failure.code is StatusCode.NOT_FOUND
    assert failure.reason == "ERROR_REASON_UNKNOWN_MODEL"
    assert failure.metadata == {"model": "poetry"}


async def test_a_prompt_beyond_the_context_says_how_long_it_is(fleet: Fleet) -> None:
    failure = await refusal(fleet.ask("word " * 5000, model="sql"))

    counts = {key: int(value) for key, value in failure.metadata.items()}
    assert counts["prompt_token_count"] > counts["context_token_count"] > 0


async def test_constraints_that_nothing_meets(fleet: Fleet) -> None:
    failure = await refusal(fleet.ask("Who wrote Hamlet?", constraints={"min_quality": 1.0}))

    assert failure.code is StatusCode.FAILED_PRECONDITION
    assert failure.reason == "ERROR_REASON_NO_MODEL_QUALIFIES"


async def raw(fleet: Fleet, data: bytes, method: str = GENERATE) -> bytes:
    """Send bytes as they are."""
    if method == STREAM:
        answers = [answer async for answer in fleet.channel.unary_stream(method)(data)]
        return b"".join(answers)
    return await fleet.channel.unary_unary(method)(data)


@pytest.mark.parametrize("method", [GENERATE, STREAM])
@pytest.mark.parametrize(
    "data",
    [b"\x0a\x04ab\xff\xfe", b"\x0a\xff", b"\xff" * 40, b"\x00", b"hello world"],
    ids=["invalid UTF-8", "truncated", "ones", "zero tag", "text"],
)
async def test_bytes_that_are_no_message(fleet: Fleet, data: bytes, method: str) -> None:
    failure = await refusal(raw(fleet, data, method))

    assert failure.code is StatusCode.INVALID_ARGUMENT
    assert failure.reason == "ERROR_REASON_MALFORMED_MESSAGE"


@pytest.mark.parametrize("nested", [False, True])
async def test_a_field_of_a_newer_client_is_not_ignored(fleet: Fleet, nested: bool) -> None:
    unknown = b"\xa2\x06\x01a"  # field 100, one byte
    request = inference_pb2.GenerateRequest(prompt="What is 3 plus 4?")
    data = request.SerializeToString()
    data += b"\x4a" + bytes([len(unknown)]) + unknown if nested else unknown
    failure = await refusal(raw(fleet, data))

    assert failure.code is StatusCode.INVALID_ARGUMENT
    assert failure.reason == "ERROR_REASON_UNKNOWN_FIELD"
    assert failure.metadata["field"] == ("constraints.100" if nested else "100")


@pytest.mark.parametrize("method", [GENERATE, STREAM])
async def test_a_message_above_the_limit(fleet: Fleet, method: str) -> None:
    data = inference_pb2.GenerateRequest(prompt="a" * 2**21).SerializeToString()
    failure = await refusal(raw(fleet, data, method))

    assert failure.code is StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "ERROR_REASON_MESSAGE_TOO_LARGE"
    assert int(failure.metadata["size_bytes"]) == len(data)


async def test_a_message_far_above_the_limit(fleet: Fleet) -> None:
    failure = await refusal(raw(fleet, b"\x0a" + b"\x80" * (65 * 2**20)))

    # gRPC itself ends this one, before it is whole in memory.
    assert failure.code is StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_method(fleet: Fleet) -> None:
    failure = await refusal(raw(fleet, b"", "/deltafleet.v1.InferenceService/Sing"))

    assert failure.code is StatusCode.UNIMPLEMENTED


async def test_the_other_services_refuse_too(fleet: Fleet) -> None:
    refused: list[tuple[Failure, str]] = [
        (await refusal(fleet.routing.Route(routing_pb2.RouteRequest())), "EMPTY_PROMPT"),
        (
            await refusal(fleet.models.ListModels(fleet_pb2.ListModelsRequest(page_size=-1))),
            "INVALID_PARAMETER",
        ),
        (
            await refusal(fleet.models.ListModels(fleet_pb2.ListModelsRequest(page_token="?"))),
            "INVALID_PARAMETER",
        ),
        (
            await refusal(fleet.models.GetModel(fleet_pb2.GetModelRequest(model="x"))),
            "UNKNOWN_MODEL",
        ),
        (
            await refusal(
                fleet.costs.GetCostReport(
                    cost_pb2.GetCostReportRequest(
                        start_time={"seconds": 20}, end_time={"seconds": 10}
                    )
                )
            ),
            "INVALID_PARAMETER",
        ),
        (
            await refusal(
                fleet.costs.GetCostReport(
                    cost_pb2.GetCostReportRequest(start_time={"seconds": 2**60})
                )
            ),
            "INVALID_PARAMETER",
        ),
    ]

    for failure, reason in refused:
        assert failure.reason == f"ERROR_REASON_{reason}"


async def test_a_refused_call_carries_the_callers_request_id(fleet: Fleet) -> None:
    call = fleet.inference.Generate(
        inference_pb2.GenerateRequest(), metadata=(("x-request-id", "mine-1"),)
    )
    assert (await refusal(call)).reason == "ERROR_REASON_EMPTY_PROMPT"
    assert ("x-request-id", "mine-1") in tuple(await call.trailing_metadata())


async def test_nothing_of_it_was_a_fault_of_ours(fleet: Fleet) -> None:
    assert (await fleet.ask("What is 3 plus 4?")).text
    assert not [line for line in fleet.lines if '"level": "error"' in line]
