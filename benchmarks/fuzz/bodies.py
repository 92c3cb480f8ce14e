"""Bodies that are nearly a request for a chat completion, as JSON (pure)."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from benchmarks.fuzz.messages import TEXTS
from benchmarks.fuzz.wire import flip_bits

CHAT: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": "What is 3 plus 4?"}],
    "max_tokens": 2,
    "temperature": 0,
    "top_p": 1,
    "stop": ["\n"],
    "stream": False,
    "seed": 1,
    "n": 1,
    "user": "fuzz",
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 0.5, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, 5e-324),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        [],
        {},
        [[]],
        [None],
        {"": ""},
        "\ud800",
        "\udfff",
    ),
    *(["\n"] * 1000, {"type": "text", "text": "a"}, [{"type": "image_url", "image_url": {}}]),
    *TEXTS,
)
KEYS = (
    "role",
    "content",
    "name",
    "tools",
    "logit_bias",
    "response_format",
    "__proto__",
    "",
    "\x00",
)
MILLION_STOPS = b'{"model":"auto","messages":[{"role":"user","content":"a"}],"stop":[' + (
    b'"x",' * 200_000 + b'"x"]}'
)
DEEP = b'{"messages":' + b"[" * 50_000
MILLION_SHARE = 0.001


def chat_body(chance: random.Random) -> bytes:
    """One body: values of other types and sizes, keys too many, and now and then no JSON at all."""
    if chance.random() < MILLION_SHARE:
        return chance.choice((MILLION_STOPS, DEEP))
    document = copy.deepcopy(CHAT)
    for _ in range(chance.choice((1, 1, 2, 4))):
        _spoil(document, chance)
    body = json.dumps(document).encode()
    kind = chance.random()
    if kind < 0.1:
        return flip_bits(body, chance)
    if kind < 0.15:
        return body[: chance.randrange(len(body))]
    if kind < 0.2:
        return body.replace(b'"a"', b'"\xff\xfe"').replace(b"3", b"\xc0\x80")
    return b"\xef\xbb\xbf" + body if kind < 0.22 else body


def _spoil(document: dict[str, Any], chance: random.Random) -> None:
    """Change one value, or add or take one, somewhere in it."""
    place: Any = document
    if chance.random() < 0.4 and isinstance(document.get("messages"), list):
        messages = document["messages"]
        if messages and isinstance(messages[0], dict):
            place = messages[0]
    key = chance.choice((*place, *place, *KEYS))
    if chance.random() < 0.15:
        place.pop(key, None)
    else:
        place[key] = chance.choice(VALUES)
