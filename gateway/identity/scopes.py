"""Which scope each method of the gateway needs, and whether somebody has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.caller import Caller, Scope
from gateway.errors import PermissionDenied

SCOPE_OF: Mapping[str, Scope] = {
    "/deltafleet.v1.InferenceService/Generate": Scope.INFER,
    "/deltafleet.v1.InferenceService/StreamGenerate": Scope.INFER,
    "/deltafleet.v1.RoutingService/Route": Scope.INFER,
    "/deltafleet.v1.RoutingService/RecordFeedback": Scope.INFER,
    "/deltafleet.v1.FleetService/ListModels": Scope.INFER,
    "/deltafleet.v1.FleetService/GetModel": Scope.INFER,
    "/deltafleet.v1.CostService/GetCostReport": Scope.READ_COSTS,
    "/deltafleet.v1.AdminService/GetConfig": Scope.ADMINISTER,
    "/deltafleet.v1.AdminService/ReloadConfig": Scope.ADMINISTER,
}


def require(caller: Caller, scope: Scope) -> None:
    """Raises PermissionDenied."""
    if scope not in caller.scopes:
        raise PermissionDenied(
            f"this needs the scope {scope.value}, which {caller.name} has not", scope=scope.value
        )


def require_for(caller: Caller, method: str) -> None:
    """method: full name. Raises PermissionDenied, also for a method that no scope was given."""
    scope = SCOPE_OF.get(method)
    if scope is None:
        raise PermissionDenied(f"nobody may call {method}")
    require(caller, scope)
