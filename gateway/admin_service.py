"""What those who run the gateway ask it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from deltafleet.v1 import admin_pb2, admin_pb2_grpc


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """reload: see Reloader."""

    def __init__(self, reload: Callable[[], Awaitable[str]]) -> None:
        self._reload = reload

    async def ReloadConfig(
        self, request: admin_pb2.ReloadConfigRequest, context: Any
    ) -> admin_pb2.ReloadConfigResponse:
        """Read fleet.yaml again."""
        return admin_pb2.ReloadConfigResponse(sha256=await self._reload())
