"""A small share of requests tries another model that would do. Pure.

Which ones is told by the request's id alone, so that a decision can be made again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from gateway.router import Route, RouteReason


def explored(route: Route, request_id: str, share: float) -> Route:
    """The route, or of `share` of all requests one to another candidate that qualifies.

    share: 0 to 1.
    """
    if not share:
        return route
    others = [
        one.target for one in route.candidates if one.qualifies and one.target != route.target
    ]
    place, choice = _draws(request_id)
    if not others or place >= share:
        return route
    target = sorted(others, key=lambda one: one.name)[int(choice * len(others))]
    return replace(
        route,
        target=target,
        reason=RouteReason.EXPLORED,
        explanation=(
            f"{route.explanation}; one of the {share:.1%} of requests that try another model "
            f"that would do: {target.name}"
        ),
    )


def _draws(request_id: str) -> tuple[float, float]:
    """Two numbers, at least 0 and below 1, as if drawn."""
    digest = hashlib.sha256(request_id.encode("utf-8", "replace")).digest()
    return _share(digest[:6]), _share(digest[6:12])


def _share(data: bytes) -> float:
    return int.from_bytes(data, "big") / (1 << 8 * len(data))
