"""HTTP/2 by hand: frames that are right, and frames that are wrong (pure; RFC 9113)."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from benchmarks.fuzz.wire import HUGE, flip_bits, mutated

Header = tuple[str | bytes, str | bytes]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LIST_MODELS = "/deltafleet.v1.FleetService/ListModels"
GENERATE = "/deltafleet.v1.InferenceService/Generate"
PATHS = (
    *(LIST_MODELS, GENERATE, "/deltafleet.v1.CostService/GetCostReport", "/", ""),
    *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/deltafleet.v1.X/Y"),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    *(b"/\xff\xfe", b"/deltafleet.v1.FleetService/\xc0", "*", "/a" * 3000),
)
TIMEOUTS = ("1n", "0n", "-1S", "", "S", "99999999H", "999999999S", "1x", " 1S", b"1S\xff")
ODD_HEADERS: tuple[Header, ...] = (
    *(("grpc-encoding", "gzip"), ("grpc-encoding", "deflate"), ("grpc-encoding", "brotli")),
    *(("content-type", "text/html"), ("content-type", b"\xff"), ("te", "gzip"), ("X-Upper", "1")),
    *((b"x \xff", "1"), ("", ""), (":path", "/twice"), (":status", "200"), (":new", "1")),
    *(("x-bytes-bin", "!!"), ("x-bytes-bin", "AAAA"), ("x-text", b"\xff\xfe\x00"), ("x", "\r\n")),
    *(("x-request-id", b"\xff"), ("traceparent", b"\x80" * 55), ("deltafleet-caller", b"\xc3\x28")),
    *(("grpc-status", "0"), ("grpc-message", "%%%"), ("grpc-previous-rpc-attempts", "-1")),
    *(("connection", "close"), ("transfer-encoding", "chunked"), ("content-length", "-1")),
    *(("cookie", "a" * 4000), ("x-long", "b" * 15_000), ("x-longer", "c" * 40_000)),
    *(("authorization", b"Bearer \xff\xff"), ("host", "elsewhere"), ("user-agent", b"\x00")),
)


def headers_of(path: str | bytes = LIST_MODELS, more: Sequence[Header] = ()) -> list[Header]:
    """What gRPC asks of a request."""
    return [
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "fuzz")),
        *(("te", "trailers"), ("content-type", "application/grpc"), *more),
    ]


def headers(
    stream: int, fields: Iterable[Header], *, ends: bool = False, is_whole: bool = True
) -> bytes:
    """A HEADERS frame. ends: nothing follows; is_whole: no CONTINUATION either."""
    frame = HeadersFrame(stream, data=hpack.Encoder().encode(list(fields)))
    frame.flags |= {name for name, on in (("END_STREAM", ends), ("END_HEADERS", is_whole)) if on}
    return frame.serialize()


def data(stream: int, content: bytes, *, ends: bool = True) -> bytes:
    """A DATA frame."""
    frame = DataFrame(stream, data=content)
    if ends:
        frame.flags.add("END_STREAM")
    return frame.serialize()


def message(content: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message. length: that it says; default: its own."""
    return struct.pack(">BI", flag, len(content) if length is None else length) + content


def settings(values: dict[int, int] | None = None) -> bytes:
    """A SETTINGS frame."""
    return SettingsFrame(0, settings=values or {}).serialize()


def raw_frame(
    kind: int, flags: int, stream: int, content: bytes, length: int | None = None
) -> bytes:
    """Any frame. length: that it says; default: its own."""
    size = len(content) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + content


def conversation(chance: random.Random) -> bytes:
    """What one connection sends: some frames of a client, most of them wrong in some way."""
    parts = [PREFACE, settings()]
    for stream in range(1, 2 * chance.choice((1, 1, 2, 5)), 2):
        parts += _call(stream, chance)
    for _ in range(chance.choice((0, 1, 1, 3))):
        parts.insert(chance.randrange(len(parts) + 1), _other(chance))
    if chance.random() < 0.1:
        chance.shuffle(parts)
    sent = b"".join(parts)
    if chance.random() < 0.2:
        sent = sent[:24] + flip_bits(sent[24:], chance)
    return sent[: chance.randrange(len(sent))] if chance.random() < 0.05 else sent


def _call(stream: int, chance: random.Random) -> list[bytes]:
    more = list(chance.sample(ODD_HEADERS, chance.choice((0, 0, 1, 2))))
    if chance.random() < 0.2:
        more.append(("grpc-timeout", chance.choice(TIMEOUTS)))
    fields = headers_of(chance.choice(PATHS[: chance.choice((1, len(PATHS)))]), more)
    if chance.random() < 0.1:
        fields.pop(chance.randrange(len(fields)))
    if chance.random() < 0.05:
        chance.shuffle(fields)
    content = mutated(b"\x08\x01", chance) if chance.random() < 0.7 else b""
    flag = chance.choice((0, 0, 0, 0, 1, 7, 255))
    if flag == 1 and chance.random() < 0.7:
        content = gzip.compress(content)
        content = flip_bits(content, chance) if chance.random() < 0.5 else content
    length = chance.choice((None, None, None, None, 0, 1, 2**31, 2**32 - 1))
    body = message(content, flag=flag, length=length)
    place = chance.randrange(len(body) + 1)
    ends = chance.random() < 0.85
    whole = [data(stream, body, ends=ends)]
    split = [data(stream, body[:place], ends=False), data(stream, body[place:], ends=ends)]
    return [headers(stream, fields), *chance.choice((whole, whole, split, []))]


def _other(chance: random.Random) -> bytes:
    """A frame that may come at any time, or never."""
    stream = chance.choice((0, 1, 1, 3, 2, 7, 2**31 - 1))
    return chance.choice(
        (
            lambda: settings({chance.randrange(1, 9): chance.choice(HUGE[:3])}),
            lambda: settings({chance.randrange(1, 9): chance.randrange(3)}),
            lambda: raw_frame(6, chance.randrange(256), stream, chance.randbytes(8)),
            lambda: PingFrame(0, opaque_data=b"12345678").serialize(),
            lambda: RstStreamFrame(stream or 1, error_code=chance.randrange(20)).serialize(),
            lambda: WindowUpdateFrame(
                stream, window_increment=chance.choice((1, 2**31 - 1))
            ).serialize(),
            lambda: raw_frame(8, 0, stream, bytes(4)),  # a window that grows by nothing
            lambda: PriorityFrame(stream or 1, depends_on=stream or 1).serialize(),
            lambda: GoAwayFrame(0, last_stream_id=stream).serialize(),
            lambda: ContinuationFrame(stream or 1, data=chance.randbytes(20)).serialize(),
            lambda: raw_frame(5, 4, stream, chance.randbytes(12)),  # a push, which no client sends
            lambda: raw_frame(
                *(chance.randrange(256), chance.randrange(256), stream),
                chance.randbytes(chance.choice((0, 1, 5, 60))),
                chance.choice((None, None, 0, 3, 2**24 - 1)),
            ),
        )
    )()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server sent. statuses: of calls that ended: grpc-status, grpc-message."""

    statuses: tuple[tuple[str, str], ...]
    reset_count: int
    went_away: bool  # it said GOAWAY


def read_frames(sent: bytes) -> Seen:
    """What a server's bytes say; half a frame at their end says nothing."""
    decoder = hpack.Decoder()
    statuses, resets, went_away = [], 0, False
    while len(sent) >= 9:
        frame, size = Frame.parse_frame_header(memoryview(sent[:9]))
        if len(sent) < 9 + size:
            break
        frame.parse_body(memoryview(sent[9 : 9 + size]))
        sent = sent[9 + size :]
        if isinstance(frame, HeadersFrame):
            fields = dict(decoder.decode(frame.data, raw=True))
            if b"grpc-status" in fields:
                text = fields.get(b"grpc-message", b"").decode("latin1")
                statuses.append((fields[b"grpc-status"].decode("latin1"), text))
        resets += isinstance(frame, RstStreamFrame)
        went_away |= isinstance(frame, GoAwayFrame)
    return Seen(tuple(statuses), resets, went_away)
