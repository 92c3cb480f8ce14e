"""Every reason for which a request can fail, as OpenAI's client raises it."""

from __future__ import annotations

import openai
import pytest
from grpc import StatusCode

from deltafleet.v1.error_reason_pb2 import ErrorReason
from gateway.http_door.frame import Incoming
from gateway.http_door.reply import Reply
from gateway.http_door.statuses import HTTP_OF, reason_of
from model_pool.errors import FleetError
from model_pool.rpc import STATUS_OF
from support.http_door import CHAT, door_of, user

CLASSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    413: openai.APIStatusError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}
# What google/rpc/code.proto says of a gRPC code; other statuses are OpenAI's own for a reason.
USUAL = {
    StatusCode.INVALID_ARGUMENT: {400},
    StatusCode.NOT_FOUND: {404},
    StatusCode.RESOURCE_EXHAUSTED: {429, 413},
    StatusCode.UNAVAILABLE: {503, 502},
    StatusCode.FAILED_PRECONDITION: {400, 409, 422, 500},
    StatusCode.DEADLINE_EXCEEDED: {504},
    StatusCode.INTERNAL: {500},
    StatusCode.UNAUTHENTICATED: {401},
    StatusCode.PERMISSION_DENIED: {403},
    StatusCode.ALREADY_EXISTS: {409},
    StatusCode.ABORTED: {409},
}


def test_every_reason_has_a_status() -> None:
    assert HTTP_OF.keys() == STATUS_OF.keys()
    assert HTTP_OF.keys() == set(ErrorReason.values()) - {ErrorReason.ERROR_REASON_UNSPECIFIED}


@pytest.mark.parametrize("reason", sorted(HTTP_OF), ids=ErrorReason.Name)
async def test_the_client_raises_the_class_of_the_status(reason: int) -> None:
    error = FleetError("what went wrong", retry_after_s=None, field="temperature")
    error.reason = reason

    async def fail(incoming: Incoming, reply: Reply) -> None:
        raise error

    async with (
        door_of(fail) as door,
        openai.AsyncOpenAI(
            base_url=f"http://{door.address}/v1", api_key="none", max_retries=0
        ) as client,
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="auto", messages=user("a"))

    told = caught.value
    assert type(told) is CLASSES[told.status_code]
    assert told.status_code in USUAL[STATUS_OF[reason]]
    assert told.body["reason"] == ErrorReason.Name(reason)
    assert told.body["message"] == "what went wrong"
    assert told.type and told.code
    assert told.param == "temperature"
    assert told.request_id
    assert told.response.headers["x-should-retry"] == (
        "true" if STATUS_OF[reason] is StatusCode.UNAVAILABLE else "false"
    )
    assert door.ended == [(CHAT, told.status_code, reason_of(error))]


async def test_the_client_comes_back_when_it_is_told_to() -> None:
    calls = []

    async def fail_once(incoming: Incoming, reply: Reply) -> None:
        calls.append(incoming.call.request_id)
        if len(calls) == 1:
            error = FleetError("come back", retry_after_s=0.2)
            error.reason = ErrorReason.ERROR_REASON_BUDGET_SPENT
            raise error
        await reply.whole(b'{"id":"x","choices":[]}')

    async with (
        door_of(fail_once) as door,
        openai.AsyncOpenAI(base_url=f"http://{door.address}/v1", api_key="none") as client,
    ):
        answer = await client.chat.completions.create(model="auto", messages=user("a"))

    assert answer.id == "x"
    assert [status for _, status, _ in door.ended] == [429, 200]


async def test_a_fault_of_ours_tells_nothing_but_the_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(incoming: Incoming, reply: Reply) -> None:
        raise RuntimeError("secret of the house")

    async with (
        door_of(fail) as door,
        openai.AsyncOpenAI(
            base_url=f"http://{door.address}/v1", api_key="none", max_retries=0
        ) as client,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="auto", messages=user("a"))

    assert "secret" not in caught.value.response.text
    assert caught.value.request_id in caught.value.body["message"]
    assert caught.value.response.headers["x-should-retry"] == "false"
    (record,) = [one for one in caplog.records if one.getMessage() == "request_failed"]
    assert record.request_id == caught.value.request_id
