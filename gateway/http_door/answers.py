"""Answers as OpenAI's API has them: whole, or as the events of a stream. Pure."""

from __future__ import annotations

from typing import Any, Protocol

from google.protobuf.json_format import MessageToDict
from pydantic_core import to_json

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.http_door.fields import Asked, ChatAsked
from gateway.http_door.usage import usage_json

FINISH = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}
DONE = b"data: [DONE]\n\n"


class Shape(Protocol):
    """What differs between chat completions and plain ones."""

    prefix: str  # of an answer's id
    whole_object: str
    event_object: str
    opening: dict[str, Any] | None  # the first event's choice; None: it has none

    def choice(self, text: str) -> dict[str, Any]:
        """Of a whole answer."""
        ...

    def piece(self, text: bytes) -> bytes:
        """What an event's choice begins with. text: as JSON."""
        ...

    def nothing(self) -> bytes:
        """The same of the last one, which has no text."""
        ...


class Chat:
    """/v1/chat/completions."""

    prefix = "chatcmpl-"
    whole_object = "chat.completion"
    event_object = "chat.completion.chunk"
    opening: dict[str, Any] | None = {"role": "assistant", "content": "", "refusal": None}

    def choice(self, text: str) -> dict[str, Any]:
        """Of a whole answer."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def piece(self, text: bytes) -> bytes:
        """What an event's choice begins with."""
        return b'"delta":{"content":%b}' % text

    def nothing(self) -> bytes:
        """The same of the last one."""
        return b'"delta":{}'


class Completion:
    """/v1/completions."""

    prefix = "cmpl-"
    whole_object = event_object = "text_completion"
    opening: dict[str, Any] | None = None

    def choice(self, text: str) -> dict[str, Any]:
        """Of a whole answer."""
        return {"text": text}

    def piece(self, text: bytes) -> bytes:
        """What an event's choice begins with."""
        return b'"text":%b' % text

    def nothing(self) -> bytes:
        """The same of the last one."""
        return b'"text":""'


def to_answer(
    shape: Shape,
    asked: Asked,
    response: inference_pb2.GenerateResponse,
    *,
    request_id: str,
    created_s: int,
) -> bytes:
    """A whole answer."""
    choice = shape.choice(response.text) | {
        "index": 0,
        "logprobs": None,
        "finish_reason": FINISH[response.summary.finish_reason],
    }
    answer: dict[str, Any] = {
        "id": shape.prefix + request_id,
        "object": shape.whole_object,
        "created": created_s,
        "model": response.decision.model,
        "choices": [choice],
        "usage": usage_json(response.summary),
        "system_fingerprint": response.summary.weights_digest or None,
    }
    return to_json(answer | _tier(asked) | _explained(asked, response.decision))


def _explained(asked: Asked, decision: routing_pb2.Decision) -> dict[str, Any]:
    if asked.deltafleet is None or not asked.deltafleet.explain:
        return {}
    told = MessageToDict(
        decision, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {"deltafleet": {"decision": told}}


def _tier(asked: Asked) -> dict[str, Any]:
    if not isinstance(asked, ChatAsked) or asked.service_tier is None:
        return {}
    return {"service_tier": "default" if asked.service_tier == "auto" else asked.service_tier}


class Events:
    """The events of one streamed answer, as bytes.

    All but a piece's text is the same from piece to piece: it is made once.
    """

    def __init__(
        self,
        shape: Shape,
        asked: Asked,
        decision: routing_pb2.Decision,
        *,
        request_id: str,
        created_s: int,
    ) -> None:
        self._shape = shape
        self._tells_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        self._common = {
            "id": shape.prefix + request_id,
            "object": shape.event_object,
            "created": created_s,
            "model": decision.model,
        } | _tier(asked)
        self._explained = _explained(asked, decision)
        head = to_json(self._common)[:-1]
        self._head = b"data: " + head + b',"choices":[{"index":0,'
        self._tail = b',"logprobs":null,"finish_reason":null}]'
        self._tail += b',"usage":null}\n\n' if self._tells_usage else b"}\n\n"

    def opening(self) -> bytes:
        """Before the first piece; empty where nothing is to say."""
        if self._shape.opening is None and not self._explained:
            return b""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": None}
        if self._shape.opening is None:
            choice["text"] = ""
        else:
            choice["delta"] = self._shape.opening
        return self._event({"choices": [choice], **self._no_usage(), **self._explained})

    def piece(self, text: str) -> bytes:
        """Some more of the answer."""
        return b"".join((self._head, self._shape.piece(to_json(text)), self._tail))

    def closing(self, summary: inference_pb2.Summary) -> bytes:
        """The end: why, then what it used where that is asked for, then that it is all."""
        ended = b',"logprobs":null,"finish_reason":"%b"}],"system_fingerprint":%b' % (
            FINISH[summary.finish_reason].encode(),
            to_json(summary.weights_digest or None),
        )
        rest = b',"usage":null}\n\n' if self._tells_usage else b"}\n\n"
        end = b"".join((self._head, self._shape.nothing(), ended, rest))
        if self._tells_usage:
            end += self._event({"choices": [], "usage": usage_json(summary)})
        return end + DONE

    def _no_usage(self) -> dict[str, Any]:
        return {"usage": None} if self._tells_usage else {}

    def _event(self, more: dict[str, Any]) -> bytes:
        return to_event(self._common | more)


def to_event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"
