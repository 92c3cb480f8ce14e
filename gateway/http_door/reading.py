"""Bytes of a request → its fields → what the walk takes. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.http_door.fields import (
    UNKNOWN,
    Asked,
    ChatAsked,
    CompletionAsked,
    Fields,
    Message,
    Wishes,
)
from gateway.pricing import to_nano_usd
from model_pool.errors import FleetError, InvalidParameter, MalformedMessage, UnknownField

AUTO = "auto"  # the model's name that leaves the choice to us
Asking = TypeVar("Asking", bound=Fields)
ROLES = {
    "system": routing_pb2.ROLE_SYSTEM,
    "developer": routing_pb2.ROLE_SYSTEM,
    "user": routing_pb2.ROLE_USER,
    "assistant": routing_pb2.ROLE_ASSISTANT,
}
PRIORITIES = {
    "interactive": inference_pb2.PRIORITY_INTERACTIVE,
    "standard": inference_pb2.PRIORITY_STANDARD,
    "batch": inference_pb2.PRIORITY_BATCH,
}
TIERS = {"priority": inference_pb2.PRIORITY_INTERACTIVE, "flex": inference_pb2.PRIORITY_BATCH}


def read_fields(kind: type[Asking], data: bytes) -> Asking:
    """Raises MalformedMessage, UnknownField, InvalidParameter.

    The parser takes UTF-8 alone, and neither NaN, lone surrogates, numbers of more than 4,300
    digits nor more than 200 levels.
    """
    try:
        found = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedMessage(f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise MalformedMessage("the body is no JSON object")
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise _to_failure(error) from None


def _to_failure(error: ValidationError) -> FleetError:
    first = error.errors(include_url=False, include_input=False)[0]
    field = place(first["loc"])
    if first["type"] == UNKNOWN:
        field = f"{field}.{first['ctx']['name']}".lstrip(".")
        return UnknownField(f"{field}: no such parameter", field=field)
    text = first["msg"]
    return InvalidParameter(f"{field}: {text}" if field else text, field=field)


def place(parts: tuple[int | str, ...]) -> str:
    """Where in the body: messages[0].content."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".")


def to_chat(asked: ChatAsked) -> inference_pb2.GenerateRequest:
    """The same request as gRPC's callers send it."""
    request = _to_generate(asked)
    request.messages.extend(map(_to_message, asked.messages))
    if not asked.messages:
        raise InvalidParameter("messages: at least one", field="messages")
    if not request.priority and asked.service_tier:
        request.priority = TIERS.get(asked.service_tier, inference_pb2.PRIORITY_STANDARD)
    return request


def to_completion(asked: CompletionAsked) -> inference_pb2.GenerateRequest:
    """The same request as gRPC's callers send it: the prompt is the user's one turn."""
    request = _to_generate(asked)
    request.prompt = asked.prompt[0]
    return request


def _to_generate(asked: Asked) -> inference_pb2.GenerateRequest:
    request = inference_pb2.GenerateRequest(
        model="" if asked.model == AUTO else asked.model,
        max_output_token_count=asked.longest or 0,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=asked.stop,
        seed=asked.seed,
    )
    if asked.deltafleet is not None:
        _add_wishes(request, asked.deltafleet)
    return request


def _add_wishes(request: inference_pb2.GenerateRequest, wishes: Wishes) -> None:
    limits: dict[str, Any] = {
        "min_quality": wishes.min_quality,
        "max_cost_nano_usd": _nano_usd(wishes.max_cost_usd),
        "accepts_less": wishes.accepts_less,
    }
    if any(value is not None for value in limits.values()):
        request.constraints.CopyFrom(routing_pb2.Constraints(**limits))
    if wishes.priority:
        request.priority = PRIORITIES[wishes.priority]
    request.explain = bool(wishes.explain)


def _nano_usd(usd: float | None) -> int | None:
    return None if usd is None else to_nano_usd(Decimal(str(usd)))


def _to_message(message: Message) -> routing_pb2.ChatMessage:
    text = "\n".join(part.text for part in message.content)  # as vLLM joins them
    return routing_pb2.ChatMessage(role=ROLES[message.role], content=text)
