"""What those who run the gateway ask it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from deltafleet.v1 import admin_pb2, admin_pb2_grpc
from gateway.configuration.effective_config import EffectiveConfig


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """config: the one in force. reload: see Reloader."""

    def __init__(
        self, config: Callable[[], EffectiveConfig], reload: Callable[[], Awaitable[str]]
    ) -> None:
        self._config = config
        self._reload = reload

    async def GetConfig(
        self, request: admin_pb2.GetConfigRequest, context: Any
    ) -> admin_pb2.GetConfigResponse:
        """The configuration in force, without its secrets."""
        found = self._config()
        answer = admin_pb2.GetConfigResponse(yaml=found.yaml, sha256=found.sha256)
        answer.loaded_time.FromDatetime(found.loaded)
        return answer

    async def ReloadConfig(
        self, request: admin_pb2.ReloadConfigRequest, context: Any
    ) -> admin_pb2.ReloadConfigResponse:
        """Read fleet.yaml again."""
        return admin_pb2.ReloadConfigResponse(sha256=await self._reload())
