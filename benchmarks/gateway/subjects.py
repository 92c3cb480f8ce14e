"""What is measured, each as the client sees it: how it is reached, what is asked, what is text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import grpc

from benchmarks.gateway import grpc_load, http_load
from benchmarks.gateway.fleet import LITELLM_KEY, candidate_prompts
from benchmarks.gateway.loading import Connection
from benchmarks.gateway.pacing import Pacing
from deltafleet.v1 import inference_pb2, routing_pb2, routing_pb2_grpc, worker_pb2

RUN = "/deltafleet.v1.WorkerService/Run"
GENERATE = "/deltafleet.v1.InferenceService/Generate"
STREAM = "/deltafleet.v1.InferenceService/StreamGenerate"
# StreamGenerateResponse is a oneof, so that an event of text begins with the tag of its field 2.
TEXT_TAG = 2 << 3 | 2


def nothing() -> float:
    """CPU time of what is not watched."""
    return 0.0


async def static_prompts(address: str, metadata: dict[str, str]) -> list[str]:
    """Prompts of the right length that the gateway's static step routes."""
    found = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = routing_pb2_grpc.RoutingServiceStub(channel)
        for text in candidate_prompts():
            asked = routing_pb2.RouteRequest(prompt=text)
            answer = await stub.Route(asked, wait_for_ready=True, metadata=tuple(metadata.items()))
            if answer.decision.decided_by == "static":
                found.append(text)
    if not found:
        raise RuntimeError("the static step decides none of the prompts")
    return found


class Worker:
    """The stub worker itself, or a proxy that passes Run on."""

    is_shared = True

    def __init__(self, name: str, address: str, cpu_s: Callable[[], float] = nothing) -> None:
        self.name = name
        self.cpu_s = cpu_s
        self._address = address

    async def connect(self, streams: bool) -> Connection:
        """See Subject."""
        return await grpc_load.connect(self._address, RUN)

    def messages(self, streams: bool, token_count: int, pacing: Pacing) -> Sequence[bytes]:
        """See Subject."""
        request = worker_pb2.RunRequest(
            request_id="direct",
            model="sql",
            messages=[routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content="x" * 200)],
            max_output_token_count=token_count,
            seed=pacing.seed,
        )
        return [request.SerializeToString()]

    def is_text(self, streams: bool, message: bytes) -> bool:
        """See Subject."""
        return True


class Gateway:
    """One of our gateways, or several of the same fleet, whose connections take turns."""

    is_shared = True

    def __init__(
        self,
        name: str,
        addresses: Sequence[str],
        prompts: Sequence[str],
        cpu_s: Callable[[], float],
        metadata: dict[str, str],
    ) -> None:
        """metadata: of each call: its key."""
        self.name = name
        self.cpu_s = cpu_s
        self.metadata = metadata
        self._addresses = addresses
        self._prompts = prompts
        self._connected_count = 0

    @property
    def address(self) -> str:
        """The first one's."""
        return self._addresses[0]

    async def connect(self, streams: bool) -> Connection:
        """See Subject."""
        address = self._addresses[self._connected_count % len(self._addresses)]
        self._connected_count += 1
        method = STREAM if streams else GENERATE
        return await grpc_load.connect(address, method, self.metadata)

    def messages(self, streams: bool, token_count: int, pacing: Pacing) -> Sequence[bytes]:
        """See Subject."""
        return [
            inference_pb2.GenerateRequest(
                prompt=prompt, max_output_token_count=token_count, seed=pacing.seed
            ).SerializeToString()
            for prompt in self._prompts
        ]

    def is_text(self, streams: bool, message: bytes) -> bool:
        """See Subject."""
        return not streams or message[0] == TEXT_TAG


class OpenAI:
    """The OpenAI-compatible stub itself, or LiteLLM before it."""

    is_shared = False

    def __init__(
        self,
        name: str,
        address: str,
        prompts: Sequence[str],
        cpu_s: Callable[[], float] = nothing,
    ) -> None:
        self.name = name
        self.cpu_s = cpu_s
        self._address = address
        self._prompts = prompts

    async def connect(self, streams: bool) -> Connection:
        """See Subject."""
        return await http_load.connect(self._address, LITELLM_KEY)

    def messages(self, streams: bool, token_count: int, pacing: Pacing) -> Sequence[bytes]:
        """See Subject."""
        return [
            json.dumps(
                {
                    "model": "stub",
                    "messages": [{"role": "user", "content": prompt}],
                    "max_tokens": token_count,
                    "seed": pacing.seed,
                    "stream": streams,
                }
            ).encode()
            for prompt in self._prompts
        ]

    def is_text(self, streams: bool, message: bytes) -> bool:
        """See Subject."""
        return b'"content":' in message
