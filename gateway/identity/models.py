"""Which models may answer a caller. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.errors import PermissionDenied


class AllowedModels:
    """parts: the models that work inside another, such as a mixture's, by its name."""

    def __init__(self, parts: Mapping[str, Collection[str]]) -> None:
        self._parts = parts

    def refusal(self, model: str, allowed: Collection[str] | None) -> PermissionDenied | None:
        """Why the model, or one that works inside it, may not answer. allowed: None for all."""
        if allowed is None:
            return None
        for name in (model, *self._parts.get(model, ())):
            if name not in allowed:
                return PermissionDenied(f"the model {name} may not answer this caller", model=name)
        return None
