"""gRPC health alone, in plain text: Kubernetes' probes know no TLS and show no certificate."""

from __future__ import annotations

from grpc_health.v1 import health, health_pb2_grpc

from model_pool.grpc_server import make_server
from model_pool.rpc import Door

LARGEST_MESSAGE_BYTES = 4096


class HealthDoor:
    """A second door to the same health."""

    def __init__(self, servicer: health.aio.HealthServicer, listen: str) -> None:
        """listen: host:port. Raises RuntimeError where it is taken."""
        frame = Door(max_message_bytes=LARGEST_MESSAGE_BYTES, default_deadline_s=None)
        self._server = make_server([frame], [("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        self.port: int = self._server.add_insecure_port(listen)

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def stop(self) -> None:
        """End every call: what there was to say was said."""
        await self._server.stop(grace=None)
