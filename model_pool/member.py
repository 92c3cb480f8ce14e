"""What the pool asks of each of its members: workers of ours, and servers behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol

from deltafleet.v1 import worker_pb2

RETRY_AFTER_S = 1.0
Status = worker_pb2.WatchStatusResponse


class Member(Protocol):
    """One that runs requests, as the gateway sees it.

    in_flight_count: requests that the gateway has on it; the pool counts them here.
    """

    name: str
    in_flight_count: int

    @property
    def status(self) -> Status | None:
        """Its last word on itself, None while it is out of reach."""
        ...

    @property
    def last_word(self) -> Status | None:
        """Its last word on itself, also where it is out of reach now."""
        ...

    @property
    def incarnation(self) -> str:
        """Of its last word: another one where it was started again; empty before the first word."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        ...

    @property
    def is_silent(self) -> bool:
        """Whether it has stopped saying anything though nothing told that it went away."""
        ...

    @property
    def serves(self) -> frozenset[str] | None:
        """The models that it can run, None for all of the fleet."""
        ...

    def may_come_to_serve(self, model: str) -> bool:
        """Whether it is to run the model once it has heard of it, and has not yet."""
        ...

    @property
    def descriptions(self) -> Mapping[str, worker_pb2.ModelDescription]:
        """What it knows of models, by name."""
        ...

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to listen. on_change: called after every word, and when it goes out of reach."""
        ...

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        ...

    def suspect(self) -> None:
        """Take it as out of reach until it is heard again."""
        ...

    async def settle(self, request: worker_pb2.RunRequest) -> worker_pb2.SettleRunResponse | None:
        """All that a request used that was broken off; None where nobody can tell any more."""
        ...

    def run(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        """Stream the answer. Closing the generator ends the request over there too.

        Raises the member's own failure, DeadlineExceeded, or WorkerLost where it went away.
        """
        ...
