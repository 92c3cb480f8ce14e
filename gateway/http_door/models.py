"""/v1/models and /v1/embeddings: what there is to ask, and the encoder that routing has."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from pydantic_core import to_json

from gateway.caller import Caller
from gateway.encoder import BatchedEncoder
from gateway.http_door.fields import EmbeddingsAsked
from gateway.http_door.frame import Incoming
from gateway.http_door.reading import AUTO, read_fields
from gateway.http_door.reply import Reply
from gateway.routing.words import Floats
from model_pool.errors import InvalidParameter, UnknownModel

ENCODER = "routing-encoder"  # the model's name for embeddings
OWNER = "deltafleet"


class Models:
    """Lists the fleet's models, and "auto".

    describe: what each is for, by name, as fleet.yaml says now. created_s: since 1970; when
    this fleet was started, as its models' own ages are not known.
    """

    def __init__(self, describe: Callable[[], Mapping[str, str]], created_s: int) -> None:
        self._describe = describe
        self._created_s = created_s

    async def all(self, incoming: Incoming, reply: Reply) -> None:
        """GET /v1/models."""
        listed = [
            self._one(name, text)
            for name, text in self._known().items()
            if _may_name(incoming.call.caller, name)
        ]
        await reply.whole(to_json({"object": "list", "data": listed}))

    async def one(self, incoming: Incoming, reply: Reply) -> None:
        """GET /v1/models/{model}."""
        name, known = incoming.path_params["model"], self._known()
        if name not in known or not _may_name(incoming.call.caller, name):
            raise UnknownModel(f"no model is called {name!r}", model=name)
        await reply.whole(to_json(self._one(name, known[name])))

    def _known(self) -> dict[str, str]:
        return {AUTO: "Chosen by the prompt", **dict(sorted(self._describe().items()))}

    def _one(self, name: str, text: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created_s,
            "owned_by": OWNER,
            "deltafleet": {"description": text},
        }


def _may_name(caller: Caller, name: str) -> bool:
    return name == AUTO or caller.models is None or name in caller.models


class Embeddings:
    """Rows of the encoder that reads prompts for routing. use: the one in force, to be held."""

    def __init__(self, use: Callable[[], AbstractContextManager[BatchedEncoder]]) -> None:
        self._use = use
        # One text at a time: prompts that wait to be routed share the encoder's thread.
        self._turn = asyncio.Semaphore(1)

    async def embed(self, incoming: Incoming, reply: Reply) -> None:
        """POST /v1/embeddings."""
        asked = read_fields(EmbeddingsAsked, incoming.body)
        if asked.model != ENCODER:
            raise UnknownModel(f"embeddings are made by {ENCODER!r} alone", model=asked.model)
        rows, token_count = [], 0
        with self._use() as encoder:
            for text in asked.input:
                async with self._turn:
                    row, count = await encoder.embed(text)
                if asked.dimensions not in (None, len(row)):
                    raise InvalidParameter(f"dimensions: {len(row)} only", field="dimensions")
                rows.append(row)
                token_count += count
        await reply.whole(to_json(_rows_json(rows, token_count, asked.encoding_format)))


def _rows_json(rows: list[Floats], token_count: int, encoding: str | None) -> dict[str, Any]:
    return {
        "object": "list",
        "model": ENCODER,
        "data": [
            {"object": "embedding", "index": place, "embedding": _numbers(row, encoding)}
            for place, row in enumerate(rows)
        ],
        "usage": {"prompt_tokens": token_count, "total_tokens": token_count},
    }


def _numbers(row: Floats, encoding: str | None) -> str | list[float]:
    """base64: of little-endian float32, as OpenAI's API has them."""
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    return [float(number) for number in row]
