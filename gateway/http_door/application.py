"""Paths → endpoints, as one ASGI application; what else is asked is refused as OpenAI does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.http_door.completions import Completions
from gateway.http_door.frame import Frame, OnHttpEnd, Rules
from gateway.http_door.models import Embeddings, Models
from gateway.http_door.statuses import INVALID, error_json

LIVE, READY, NOWHERE = "/health/live", "/health/ready", "other"
ANSWERING = ("/v1/chat/completions", "/v1/completions")
Answering = Callable[..., Awaitable[Response]]
PATHS = (*ANSWERING, "/v1/models", "/v1/models/{model}", "/v1/embeddings", LIVE, READY)


def make_app(
    rules: Rules,
    completions: Completions,
    models: Models,
    embeddings: Embeddings,
    is_ready: Callable[[], bool],
) -> Starlette:
    """Everything that the door answers. is_ready: whether it should be sent requests."""
    posts = {
        "/v1/chat/completions": completions.chat,
        "/v1/completions": completions.complete,
        "/v1/embeddings": embeddings.embed,
    }
    gets = {"/v1/models": models.all, "/v1/models/{model}": models.one}
    routes = [
        Route(path, Frame(path, endpoint, rules, has_body=True), methods=["POST"])
        for path, endpoint in posts.items()
    ]
    routes += [
        Route(path, Frame(path, endpoint, rules, has_body=False), methods=["GET"])
        for path, endpoint in gets.items()
    ]
    routes += [
        Route(LIVE, _health(LIVE, lambda: True, rules.on_end)),
        Route(READY, _health(READY, is_ready, rules.on_end)),
        Route("/health", _health(READY, is_ready, rules.on_end)),
    ]
    refuse = _refuser(rules.on_end)
    app = Starlette(routes=routes, exception_handlers={HTTPException: refuse})
    app.router.redirect_slashes = False
    return app


def _health(path: str, is_good: Callable[[], bool], on_end: OnHttpEnd) -> Answering:
    async def answer(request: Request) -> Response:
        status = 200 if is_good() else 503
        on_end(path, status, "")
        return Response(status_code=status)

    return answer


def _refuser(on_end: OnHttpEnd) -> Answering:
    async def refuse(request: Request, error: HTTPException) -> Response:
        on_end(NOWHERE, error.status_code, "")
        told = error_json(f"{error.detail}: {request.method} on this path", INVALID, "unknown_url")
        return Response(
            to_json(told), error.status_code, error.headers, media_type="application/json"
        )

    return refuse
