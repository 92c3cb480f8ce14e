"""Failures as OpenAI's clients expect them: an HTTP status, and an object that says what and why.

Statuses are those that google/rpc/code.proto gives for the gRPC code in `model_pool.rpc.STATUS_OF`,
but where OpenAI's API has another for the same failure. Types and codes are OpenAI's own words
(its guide to error codes); where it has no code, the reason itself is the code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import grpc

from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool.errors import FleetError
from model_pool.rpc import STATUS_OF

INVALID, UNAVAILABLE, FAULT = "invalid_request_error", "service_unavailable_error", "server_error"
NO_RETRY_HEADER = "x-should-retry"  # OpenAI's clients obey it


@dataclass(frozen=True, slots=True)
class HttpFailure:
    """How one reason is told. code: "" for the reason itself."""

    status: int
    type: str
    code: str = ""


HTTP_OF: dict[ErrorReason.ValueType, HttpFailure] = {
    ErrorReason.ERROR_REASON_EMPTY_PROMPT: HttpFailure(400, INVALID),
    ErrorReason.ERROR_REASON_PROMPT_TOO_LONG: HttpFailure(400, INVALID, "context_length_exceeded"),
    ErrorReason.ERROR_REASON_INVALID_PARAMETER: HttpFailure(400, INVALID),
    ErrorReason.ERROR_REASON_MALFORMED_MESSAGE: HttpFailure(400, INVALID),
    ErrorReason.ERROR_REASON_UNKNOWN_FIELD: HttpFailure(400, INVALID, "unknown_parameter"),
    ErrorReason.ERROR_REASON_UNKNOWN_MODEL: HttpFailure(404, INVALID, "model_not_found"),
    ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE: HttpFailure(413, INVALID),
    ErrorReason.ERROR_REASON_POOL_SATURATED: HttpFailure(503, UNAVAILABLE, "server_is_overloaded"),
    ErrorReason.ERROR_REASON_NO_WORKER_READY: HttpFailure(503, UNAVAILABLE),
    ErrorReason.ERROR_REASON_WORKER_LOST: HttpFailure(503, UNAVAILABLE),
    ErrorReason.ERROR_REASON_DRAINING: HttpFailure(503, UNAVAILABLE),
    ErrorReason.ERROR_REASON_SPECIALIST_UNLOADABLE: HttpFailure(500, FAULT),
    ErrorReason.ERROR_REASON_NO_MODEL_QUALIFIES: HttpFailure(422, INVALID),
    ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED: HttpFailure(504, FAULT),
    ErrorReason.ERROR_REASON_CLOSED_API_FAILED: HttpFailure(502, FAULT),
    ErrorReason.ERROR_REASON_INTERNAL: HttpFailure(500, FAULT),
    ErrorReason.ERROR_REASON_UNKNOWN_REQUEST: HttpFailure(404, INVALID),
    ErrorReason.ERROR_REASON_FEEDBACK_OFF: HttpFailure(409, INVALID),
    ErrorReason.ERROR_REASON_LEDGER_UNAVAILABLE: HttpFailure(503, UNAVAILABLE),
    ErrorReason.ERROR_REASON_REQUEST_ID_REUSED: HttpFailure(409, INVALID),
    ErrorReason.ERROR_REASON_ANSWER_NOT_KEPT: HttpFailure(409, INVALID),
    ErrorReason.ERROR_REASON_CONFIG_REFUSED: HttpFailure(409, INVALID),
    ErrorReason.ERROR_REASON_UNAUTHENTICATED: HttpFailure(
        401, "authentication_error", "invalid_api_key"
    ),
    ErrorReason.ERROR_REASON_PERMISSION_DENIED: HttpFailure(403, "permission_error"),
    ErrorReason.ERROR_REASON_RATE_LIMITED: HttpFailure(
        429, "rate_limit_error", "rate_limit_exceeded"
    ),
    ErrorReason.ERROR_REASON_CALLER_BUDGET_SPENT: HttpFailure(
        429, "insufficient_quota", "insufficient_quota"
    ),
    ErrorReason.ERROR_REASON_LIMITS_UNAVAILABLE: HttpFailure(503, UNAVAILABLE),
    ErrorReason.ERROR_REASON_CALLER_SATURATED: HttpFailure(
        429, "rate_limit_error", "rate_limit_exceeded"
    ),
    ErrorReason.ERROR_REASON_BUDGET_SPENT: HttpFailure(
        429, "insufficient_quota", "insufficient_quota"
    ),
}


def reason_of(error: FleetError) -> str:
    """The reason in lower case, without its prefix, as metrics tell it."""
    return ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_").lower()


def to_error_json(error: FleetError) -> dict[str, Any]:
    """OpenAI's error object; `reason` and `metadata` beside its fields are gRPC's ErrorInfo."""
    told = HTTP_OF[error.reason]
    return error_json(
        error.message,
        told.type,
        told.code or reason_of(error),
        param=error.metadata.get("field"),
        reason=ErrorReason.Name(error.reason),
        metadata=error.metadata,
    )


def error_json(
    message: str, kind: str, code: str, *, param: str | None = None, **more: Any
) -> dict[str, Any]:
    """The object of any failure, also of one that has no reason of ours: a path that is not."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}


def to_headers(error: FleetError) -> dict[str, str]:
    """When to come back, and whether OpenAI's clients should by themselves.

    By their own rule they would also repeat what was no fault of the moment: each 409 and 5xx.
    """
    retries = STATUS_OF[error.reason] is grpc.StatusCode.UNAVAILABLE
    headers = {}
    if error.retry_after_s is not None:
        retries = True
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    headers[NO_RETRY_HEADER] = "true" if retries else "false"
    return headers
