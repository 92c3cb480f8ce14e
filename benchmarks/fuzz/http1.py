"""Bytes that are nearly HTTP/1.1, for a port that speaks it (pure)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence

from benchmarks.fuzz.connections import Reply
from benchmarks.fuzz.wire import flip_bits

METHODS = (
    b"GET",
    b"GET",
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"\x00",
)
VERSIONS = (b"HTTP/1.1",) * 6 + (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTP/1.1", b"")
SUFFIXES = (
    *(b"", b"", b"", b"?a=b", b"?" + b"a" * 5000, b"/..%2f..%2fetc/passwd", b"%00", b"%ff%fe"),
    *(b"#", b"//", b"\xff", b";x", b"/../../../../etc/passwd", b" x", b"?name[]=%c0%ae", b"%"),
)
HEADERS = (
    *(b"Host: fuzz", b"Host: a\r\nHost: b", b"Accept-Encoding: gzip", b"Accept-Encoding: \xff"),
    *(b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Connection: upgrade"),
    *(b"Upgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue", b"Range: bytes=0-,0-,0-"),
    *(b'If-None-Match: "%s"' % (b"a" * 3000), b"Accept: */*;q=9", b"Accept: application/openme"),
    *(
        b"Cookie: " + b"c" * 9000,
        b": empty",
        b"no colon",
        b" folded: 1",
        b"X\x00: 1",
        b"X: \xff\x01",
    ),
    *(b"X-Long: " + b"l" * 70_000, b"Authorization: Basic ????", b"Accept: text/plain; version=9"),
)
BODIES = (*(b"", b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffff\r\n", b"-1\r\n"),)
Body = Callable[[random.Random], bytes]
# 503 beyond the most connections, 501 for a method or coding that is not spoken.
FINE_5XX = {501, 503}


def no_body(chance: random.Random) -> bytes:
    """Nothing, or chunks that are none."""
    return chance.choice(
        (b"", b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffff\r\n", b"-1\r\n")
    )


def exchanges(chance: random.Random, paths: Sequence[str], body: Body = no_body) -> Iterator[bytes]:
    """What one connection each sends, without end. body: sent with a POST to any of the paths."""
    while True:
        sent = b"".join(
            _request(chance, paths, body) for _ in range(chance.choice((1, 1, 1, 2, 5)))
        )
        if chance.random() < 0.2:
            sent = flip_bits(sent, chance)
        if chance.random() < 0.05:
            sent = chance.randbytes(chance.choice((1, 20, 3000)))
        yield sent[: chance.randrange(len(sent))] if chance.random() < 0.05 else sent


def _request(chance: random.Random, paths: Sequence[str], body: Body) -> bytes:
    target = chance.choice(paths).encode() + chance.choice(SUFFIXES)
    content = body(chance)
    has_body = body is not no_body and chance.random() < 0.9
    method = b"POST" if has_body else chance.choice(METHODS)
    lines = [
        b" ".join((method, target, chance.choice(VERSIONS))),
        *((b"Host: fuzz",) if chance.random() < 0.9 else ()),
        *chance.sample(HEADERS, chance.choice((0, 0, 1, 2, 6))),
    ]
    if has_body:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(content)]
    end = b"\r\n" if chance.random() < 0.97 else b"\n"
    return end.join((*lines, b"", b"")) + content


def judge_answers(reply: Reply) -> tuple[list[str], list[str]]:
    """The statuses of what came back, and what is wrong with it."""
    statuses = [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})", reply.content)]
    faults = [f"status {one}" for one in statuses if one >= 500 and one not in FINE_5XX]
    if not reply.ended:
        faults.append("the connection did not end")
    return [f"status {one}" for one in statuses] or ["closed without a word"], faults
