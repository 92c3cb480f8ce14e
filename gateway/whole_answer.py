"""The events of an answer as one message, and back."""

from __future__ import annotations

from collections.abc import Iterator

from deltafleet.v1 import inference_pb2

Event = inference_pb2.StreamGenerateResponse


class WholeAnswer:
    """An answer that is put together from its events. The last decision counts."""

    def __init__(self) -> None:
        self._response = inference_pb2.GenerateResponse()
        self._texts: list[str] = []

    def add(self, event: Event) -> None:
        """Take the next one."""
        if event.HasField("decision"):
            self._response.decision.CopyFrom(event.decision)
        elif event.HasField("summary"):
            self._response.summary.CopyFrom(event.summary)
        else:
            self._texts.append(event.text)

    def response(self) -> inference_pb2.GenerateResponse:
        """What there is so far."""
        self._response.text = "".join(self._texts)
        return self._response


def to_events(response: inference_pb2.GenerateResponse) -> Iterator[Event]:
    """Decision, text in one piece, summary."""
    if response.HasField("decision"):
        yield Event(decision=response.decision)
    if response.text:
        yield Event(text=response.text)
    yield Event(summary=response.summary)
