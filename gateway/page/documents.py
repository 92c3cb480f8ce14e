"""What the page's paths answer with: whole in memory, compressed once for all who ask."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# A file may have changed with the next version: asked for again, answered 304 where it has not.
CACHE = "no-cache"


@dataclass(frozen=True, slots=True)
class Document:
    """A body and its compressed form. etag: a strong one."""

    content_type: str
    body: bytes
    gzipped: bytes
    etag: str

    @classmethod
    def of(cls, content_type: str, body: bytes, *, level: int = 9) -> Document:
        """level: of the compression, 1 (fast) to 9 (small)."""
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return cls(content_type, body, gzip.compress(body, level, mtime=0), etag)

    @classmethod
    def of_json(cls, told: Any) -> Document:
        """Refuses what JSON has no word for, such as infinity: ValueError."""
        text = json.dumps(told, separators=(",", ":"), allow_nan=False)
        return cls.of("application/json", text.encode(), level=1)

    def answer(self, request: Request) -> Response:
        """The response to one request: whole, compressed where that is accepted, or 304."""
        headers = {"ETag": self.etag, "Cache-Control": CACHE, "Vary": "Accept-Encoding"}
        known = [tag.strip().removeprefix("W/") for tag in _list(request, "if-none-match")]
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        accepted = [one.partition(";")[0].strip() for one in _list(request, "accept-encoding")]
        if "gzip" in accepted:
            headers["Content-Encoding"] = "gzip"
            return Response(self.gzipped, media_type=self.content_type, headers=headers)
        return Response(self.body, media_type=self.content_type, headers=headers)


def _list(request: Request, header: str) -> list[str]:
    return request.headers.get(header, "").split(",")


def load_static() -> Mapping[str, Document]:
    """Every file of the page that a browser asks for, by its path below `static`."""
    return dict(_files(resources.files("gateway.page").joinpath("static"), ""))


def _files(directory: Traversable, above: str) -> list[tuple[str, Document]]:
    found: list[tuple[str, Document]] = []
    for one in directory.iterdir():
        path = f"{above}{one.name}"
        if one.is_dir():
            found += _files(one, f"{path}/")
        elif content_type := CONTENT_TYPES.get("." + one.name.rpartition(".")[2]):
            found.append((path, Document.of(content_type, one.read_bytes())))
    return found
