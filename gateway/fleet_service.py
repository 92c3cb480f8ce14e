"""Which models there are and where they are live, as the workers say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deltafleet.v1 import fleet_pb2, fleet_pb2_grpc, worker_pb2
from gateway.caller import current_caller
from gateway.configuration.configured import Configured
from gateway.configuration.current import Current
from gateway.decisions import KINDS
from gateway.errors import PermissionDenied
from model_pool.errors import InvalidParameter, UnknownModel
from model_pool.pool import Pool

DEFAULT_PAGE_SIZE = 100
LARGEST_PAGE_SIZE = 1000


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Lists the fleet's models. A page token is the last name of its page."""

    def __init__(self, current: Current, pool: Pool) -> None:
        self._current = current
        self._pool = pool

    async def ListModels(
        self, request: fleet_pb2.ListModelsRequest, context: Any
    ) -> fleet_pb2.ListModelsResponse:
        """All models that may answer the caller, by name, a page at a time."""
        if not 0 <= request.page_size <= LARGEST_PAGE_SIZE:
            raise InvalidParameter(
                f"page_size: 0 to {LARGEST_PAGE_SIZE}, not {request.page_size}", field="page_size"
            )
        targets = self._current.now.targets
        if request.page_token and request.page_token not in targets:
            raise InvalidParameter("page_token: not one of ours", field="page_token")
        names = sorted(name for name in self._usable() if name > request.page_token)
        page = names[: request.page_size or DEFAULT_PAGE_SIZE]
        return fleet_pb2.ListModelsResponse(
            models=self.describe(page),
            next_page_token=page[-1] if len(page) < len(names) else "",
        )

    async def GetModel(
        self, request: fleet_pb2.GetModelRequest, context: Any
    ) -> fleet_pb2.GetModelResponse:
        """One model."""
        if request.model not in self._current.now.targets:
            raise UnknownModel(f"no model is called {request.model!r}", model=request.model)
        if forbidden := self._refusal(request.model):
            raise forbidden
        return fleet_pb2.GetModelResponse(model=self.describe([request.model])[0])

    def _usable(self) -> list[str]:
        return [name for name in self._current.now.targets if self._refusal(name) is None]

    def _refusal(self, model: str) -> PermissionDenied | None:
        return self._current.now.allowed_models.refusal(model, current_caller.get().models)

    def describe(self, names: Iterable[str]) -> list[fleet_pb2.Model]:
        """Those of them that are the fleet's, as the workers know them now."""
        configured = self._current.now
        places: dict[str, list[fleet_pb2.Placement]] = {}
        for member in self._pool.members.values():
            status = member.status
            for loaded in status.loaded if status else ():
                places.setdefault(loaded.model, []).append(_placement(member.name, loaded))
        return [
            self._model(configured, name, places.get(name, ()))
            for name in names
            if name in configured.targets
        ]

    def _model(
        self, configured: Configured, name: str, placements: Iterable[fleet_pb2.Placement]
    ) -> fleet_pb2.Model:
        target = configured.targets[name]
        model = fleet_pb2.Model(
            name=name,
            kind=KINDS[target.kind],
            description=configured.descriptions.get(name, ""),
            quality=target.quality,
            placements=placements,
        )
        members = self._pool.members.values()
        known = [one.descriptions[name] for one in members if name in one.descriptions]
        if known:
            # Served by anyone, it has no fault; then whoever read its files knows most.
            files = min(known, key=lambda one: (bool(one.fault), not one.codec))
            model.codec = files.codec
            model.stored_size_bytes = files.stored_size_bytes
            model.full_size_bytes = files.full_size_bytes
            model.weights_digest = files.weights_digest
            model.lineage = files.lineage
            model.fault = files.fault
        return model


def _placement(worker: str, loaded: worker_pb2.LoadedModel) -> fleet_pb2.Placement:
    return fleet_pb2.Placement(
        worker=worker,
        running_count=loaded.lease_count,
        last_used_time=loaded.last_used_time if loaded.HasField("last_used_time") else None,
    )
