"""Bytes to a port, each lot on a connection of its own, and what came back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.fuzz.frames import conversation, read_frames

QUIET_S = 0.05  # without a byte: then nothing more comes by itself
END_LIMIT_S = 10.0  # from our end of the connection to the server's
# What gRPC itself answers with INTERNAL or UNAVAILABLE while it reads frames and headers, before a
# method is known: no server in Python can change it.
OF_GRPC = (
    *("Error parsing '", "Illegal header ", "Metadata keys cannot be zero length"),
    *("Failed parsing HTTP/2", "Socket closed", "Compression bit set but no encoding configured"),
)
INTERNAL, UNAVAILABLE = "13", "14"
FINE = {str(code) for code in range(13)} - {"2"} | {"16"}  # all but UNKNOWN and DATA_LOSS


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ended: the server ended its side, at the latest after we ended ours."""

    content: bytes
    ended: bool


@dataclass
class Replies:
    """What became of all connections."""

    count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    samples: dict[str, str] = field(default_factory=dict)

    def add(self, sent: bytes, kinds: list[str], faults: list[str]) -> None:
        """Take one connection into account."""
        self.count += 1
        self.kinds.update(kinds)
        for fault in faults:
            self.faults[fault] += 1
            self.samples.setdefault(fault, repr(sent[:600]))


def never(content: bytes) -> bool:
    """No answer is enough."""
    return False


async def exchange(
    address: str,
    sent: bytes,
    *,
    quiet_s: float = QUIET_S,
    is_enough: Callable[[bytes], bool] = never,
) -> Reply:
    """Send, wait until it is quiet for so long or enough has come, end, and wait for the end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = bytearray()
    try:
        writer.write(sent)
        ended = await _read_until(reader, content, quiet_s, is_enough)
        if not ended:
            writer.write_eof()
            ended = await _read_until(reader, content, END_LIMIT_S, never)
    except OSError:
        ended = True
    finally:
        writer.close()
    return Reply(bytes(content), ended)


async def _read_until(
    reader: asyncio.StreamReader,
    content: bytearray,
    quiet_s: float,
    is_enough: Callable[[bytes], bool],
) -> bool:
    """Whether the server ended the connection, and did not just fall silent for so long."""
    while not is_enough(bytes(content)):
        try:
            async with asyncio.timeout(quiet_s):
                some = await reader.read(65536)
        except TimeoutError:
            return False
        if not some:
            return True
        content += some
    return False


def judge_frames(reply: Reply) -> tuple[list[str], list[str]]:
    """What kinds of ends a server's frames tell, and what is wrong with them."""
    seen = read_frames(reply.content)
    kinds, faults = [], []
    for status, text in seen.statuses:
        is_grpcs = status in (INTERNAL, UNAVAILABLE) and text.startswith(OF_GRPC)
        if status not in FINE and not is_grpcs:
            faults.append(f"grpc-status {status}: {text[:60]}")
        kinds.append(f"grpc-status {status}{', of gRPC itself' if is_grpcs else ''}")
    kinds += ["stream reset"] * seen.reset_count + ["GOAWAY"] * seen.went_away
    if not reply.ended:
        faults.append("the connection did not end")
    return kinds or ["closed without a word"], faults


Judge = Callable[[Reply], tuple[list[str], list[str]]]


async def send_each(
    address: str, chosen: Iterator[bytes], judge: Judge, concurrency: int
) -> Replies:
    """Every lot of bytes, so many connections at a time."""
    replies = Replies()

    async def work() -> None:
        for sent in chosen:
            replies.add(sent, *judge(await exchange(address, sent)))

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return replies


def conversations(chance: random.Random) -> Iterator[bytes]:
    """Without end."""
    while True:
        yield conversation(chance)
