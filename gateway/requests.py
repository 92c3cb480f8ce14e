"""What a caller may ask: checked, and put into one shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2
from gateway.errors import EmptyPrompt
from gateway.router import Constraints
from model_pool.errors import InvalidParameter

LARGEST_MESSAGE_COUNT = 256
LONGEST_REQUEST_ID_CHARACTER_COUNT = 128  # as the door takes them
LARGEST_OUTPUT_TOKEN_COUNT = 1_000_000
LARGEST_STOP_COUNT = 16
LONGEST_STOP_CHARACTER_COUNT = 256
LONGEST_SESSION_CHARACTER_COUNT = 128
LARGEST_SEED = 2**63 - 1
_ROLES = frozenset(routing_pb2.Role.values()) - {routing_pb2.ROLE_UNSPECIFIED}
_PRIORITIES = frozenset(inference_pb2.Priority.values())


@dataclass(frozen=True, slots=True)
class Conversation:
    """Checked messages; the last one is the user's."""

    messages: tuple[routing_pb2.ChatMessage, ...]

    @property
    def user_turns(self) -> tuple[str, ...]:
        """What the user said: the texts that are classified. At least one."""
        user = routing_pb2.ROLE_USER
        return tuple(message.content for message in self.messages if message.role == user)

    @property
    def texts(self) -> tuple[str, ...]:
        """Of every message."""
        return tuple(message.content for message in self.messages)

    @property
    def character_count(self) -> int:
        """Of every message."""
        return sum(map(len, self.texts))


def read_conversation(
    request: inference_pb2.GenerateRequest | routing_pb2.RouteRequest,
) -> Conversation:
    """Raises EmptyPrompt, InvalidParameter."""
    if request.prompt and request.messages:
        raise _invalid("prompt", "give a prompt or messages, not both")
    count = len(request.messages)
    if count > LARGEST_MESSAGE_COUNT:  # half a million are not even looked at
        raise _invalid("messages", f"at most {LARGEST_MESSAGE_COUNT}, not {count}")
    messages = tuple(request.messages)
    if not messages:
        messages = (routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content=request.prompt),)
    _check_messages(messages)
    return Conversation(messages)


def _check_messages(messages: Sequence[routing_pb2.ChatMessage]) -> None:
    for place, message in enumerate(messages):
        if not message.content.strip():
            raise EmptyPrompt("there is nothing to answer: a prompt or message is empty")
        if message.role not in _ROLES:
            raise _invalid("messages.role", f"message {place} has no known role")
        if message.role == routing_pb2.ROLE_SYSTEM and place:
            raise _invalid("messages.role", "only the first message may be the system's")
    if messages[-1].role != routing_pb2.ROLE_USER:
        raise _invalid("messages.role", "the last message must be the user's")


def read_constraints(constraints: routing_pb2.Constraints, caller: Constraints) -> Constraints:
    """What is asked; where the request does not say, what fleet.yaml says of its caller.

    Raises InvalidParameter.
    """
    quality = constraints.min_quality if constraints.HasField("min_quality") else None
    cost = constraints.max_cost_nano_usd if constraints.HasField("max_cost_nano_usd") else None
    if quality is not None and not 0 <= quality <= 1:
        raise _invalid("constraints.min_quality", f"0 to 1, not {quality:g}")
    if cost is not None and cost < 0:
        raise _invalid("constraints.max_cost_nano_usd", f"at least 0, not {cost}")
    return Constraints(
        min_quality=caller.min_quality if quality is None else quality,
        max_cost_nano_usd=caller.max_cost_nano_usd if cost is None else cost,
        quality_is_default=quality is None,
        accepts_less=constraints.accepts_less,
    )


def read_score(request: routing_pb2.RecordFeedbackRequest) -> float:
    """Raises InvalidParameter for what is no feedback; NaN is no score."""
    if not 1 <= len(request.request_id) <= LONGEST_REQUEST_ID_CHARACTER_COUNT:
        raise _invalid("request_id", f"1 to {LONGEST_REQUEST_ID_CHARACTER_COUNT} characters")
    if not request.HasField("score"):
        raise _invalid("score", "say one, 0 to 1")
    if math.isnan(request.score) or not 0 <= request.score <= 1:
        raise _invalid("score", f"0 to 1, not {request.score:g}")
    return request.score


def check_sampling(request: inference_pb2.GenerateRequest) -> None:
    """Raises InvalidParameter for what is outside its range; NaN is."""
    count = request.max_output_token_count
    if not 0 <= count <= LARGEST_OUTPUT_TOKEN_COUNT:
        raise _invalid("max_output_token_count", f"0 to {LARGEST_OUTPUT_TOKEN_COUNT}, not {count}")
    if math.isnan(request.temperature) or not 0 <= request.temperature <= 2:
        raise _invalid("temperature", f"0 to 2, not {request.temperature:g}")
    if request.HasField("top_p") and not 0 < request.top_p <= 1:
        raise _invalid("top_p", f"above 0, at most 1, not {request.top_p:g}")
    if request.seed < 0:
        raise _invalid("seed", f"at least 0, not {request.seed}")
    if len(request.stop) > LARGEST_STOP_COUNT:
        raise _invalid("stop", f"at most {LARGEST_STOP_COUNT}, not {len(request.stop)}")
    if any(not 1 <= len(text) <= LONGEST_STOP_CHARACTER_COUNT for text in request.stop):
        raise _invalid("stop", f"each 1 to {LONGEST_STOP_CHARACTER_COUNT} characters")
    if len(request.session) > LONGEST_SESSION_CHARACTER_COUNT:
        raise _invalid("session", f"at most {LONGEST_SESSION_CHARACTER_COUNT} characters")
    if request.priority not in _PRIORITIES:
        raise _invalid("priority", f"not one of ours: {request.priority}")
    if request.model and request.HasField("constraints"):
        raise _invalid("constraints", "not together with model: a named model is not weighed")


def to_run(
    request: inference_pb2.GenerateRequest,
    conversation: Conversation,
    *,
    request_id: str,
    model: str,
    default_output_token_count: int,
    caller: str = "",
) -> worker_pb2.RunRequest:
    """The same request as a worker takes it."""
    return worker_pb2.RunRequest(
        request_id=request_id,
        model=model,
        messages=conversation.messages,
        max_output_token_count=request.max_output_token_count or default_output_token_count,
        temperature=request.temperature,
        top_p=request.top_p if request.HasField("top_p") else 1.0,
        stop=request.stop,
        seed=request.seed if request.HasField("seed") else None,
        priority=request.priority,
        caller=caller,
    )


def _invalid(field: str, text: str) -> InvalidParameter:
    return InvalidParameter(f"{field}: {text}", field=field)
