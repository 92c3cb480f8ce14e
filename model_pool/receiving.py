"""What a caller sends, read so that nothing it sends can hurt: bounded in size and in time.

gRPC itself would unpack a compressed message to any size before its limit is looked at, answer
INTERNAL to bytes that it cannot unpack or parse, and wait for ever for a request that never comes.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from model_pool import errors
from model_pool.errors import FleetError

# No protobuf message begins so: it would be field 3, of a wire type that does not exist.
GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
_LOOKED_AT_COUNT = 256  # messages of a repeated field whose unknown fields are told by their number
# So that messages reach `Receiver` as they were sent; see the module's docstring.
OPTIONS = (("grpc.per_message_decompression", 0),)

Read = Callable[[bytes], Message | FleetError]


class Receiver:
    """Reads the one request of a call, or all of a stream.

    max_message_bytes: of a request, unpacked; may be changed. limit_s: until the one is whole;
    None: the call's deadline alone counts.
    """

    def __init__(self, *, max_message_bytes: int, limit_s: float | None = None) -> None:
        self.max_message_bytes = max_message_bytes
        self._limit_s = limit_s

    async def receive(self, context: Any) -> Any:
        """The request, from a context whose deserializer is one of ours.

        Raises MalformedMessage, MessageTooLarge, UnknownField, DeadlineExceeded; CancelledError
        where the caller has gone.
        """
        try:
            async with asyncio.timeout(self._limit_s) as limit:
                request = await _read(context)
        except TimeoutError:
            if not limit.expired():
                raise
            raise errors.DeadlineExceeded(
                f"the request did not arrive within {self._limit_s:g} s"
            ) from None
        if request is grpc.aio.EOF:
            raise errors.MalformedMessage("the call ended without a message")
        return request

    async def receive_all(self, context: Any) -> AsyncGenerator[Any, None]:
        """The requests of a stream, to its end. Raises as `receive` does."""
        while (request := await _read(context)) is not grpc.aio.EOF:
            yield request

    def reader(self, deserialize: Callable[[bytes], Message], *, is_ours: bool = True) -> Read:
        """A deserializer that returns what is wrong: gRPC answers INTERNAL to one that raises.

        is_ours: fields that this server does not know are refused.
        """

        def read(data: bytes) -> Message | FleetError:
            try:
                message = deserialize(self._plain(data))
            except (DecodeError, ValueError):
                return errors.MalformedMessage(
                    "the bytes are not a message of the expected type, or a text is not UTF-8"
                )
            except FleetError as error:
                return error
            return (is_ours and unknown_field(message)) or message

        return read

    def _plain(self, data: bytes) -> bytes:
        if data[:2] == GZIP_MAGIC:
            data = self._unzip(data)
        if len(data) > self.max_message_bytes:
            raise self._too_large(len(data))
        return data

    def _unzip(self, data: bytes) -> bytes:
        unpacking = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            plain = unpacking.decompress(data, self.max_message_bytes + 1)
        except zlib.error:
            raise errors.MalformedMessage("the message is not what gzip made") from None
        if len(plain) <= self.max_message_bytes and not unpacking.eof:
            raise errors.MalformedMessage("the message is not all that gzip made")
        return plain

    def _too_large(self, size_bytes: int) -> FleetError:
        return errors.MessageTooLarge(
            f"the message has {size_bytes} bytes, or more where it was compressed; the limit is "
            f"{self.max_message_bytes}",
            size_bytes=size_bytes,
            limit_bytes=self.max_message_bytes,
        )


async def _read(context: Any) -> Any:
    try:
        request = await context.read()
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
    if isinstance(request, FleetError):
        raise request
    return request


def unknown_field(message: Message) -> FleetError | None:
    """The first field, at any depth, that this server's protos do not have.

    Most messages have none: that is found out by protobuf itself, where a message of half a million
    empty ones takes a tenth of the time that looking at each of them would.
    """
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() == message.ByteSize():
        return None
    name = _unknown_name(message) or "?"
    return errors.UnknownField(
        f"{message.DESCRIPTOR.name} has no field number {name}; is the client newer?", field=name
    )


def _unknown_name(message: Message, place: str = "") -> str:
    """Such as constraints.100; "" where it is not among the first of a repeated field."""
    for field in UnknownFieldSet(message):  # type: ignore[attr-defined]
        return f"{place}{field.field_number}"
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for part in islice(value, _LOOKED_AT_COUNT) if descriptor.is_repeated else (value,):
            name = _unknown_name(part, f"{place}{descriptor.name}.")
            if name:
                return name
    return ""
