"""Bytes that are nearly a protobuf message (pure; the encoding: protobuf.dev, "Encoding")."""

from __future__ import annotations

import random
from collections.abc import Callable

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
LARGEST_FIELD = 2**29 - 1
HUGE = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
NO_UTF8 = (b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82")
LONGEST = 4096  # bytes of what mutations make, but for what is meant to be long


def varint(number: int) -> bytes:
    """A number of up to 64 bits."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(field: int, kind: int) -> bytes:
    """What a field begins with."""
    return varint(field << 3 | kind)


def delimited(field: int, data: bytes) -> bytes:
    """A text, some bytes or a message as a field."""
    return tag(field, LENGTH) + varint(len(data)) + data


def nested(field: int, depth: int, inside: bytes = b"") -> bytes:
    """A message in a message, so many times."""
    for _ in range(depth):
        inside = delimited(field, inside)
    return inside


Mutation = Callable[[bytes, random.Random], bytes]


def flip_bits(data: bytes, chance: random.Random) -> bytes:
    """Some bits the other way."""
    out = bytearray(data or b"\x00")
    for _ in range(chance.choice((1, 1, 2, 8))):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def cut(data: bytes, chance: random.Random) -> bytes:
    """Only its beginning."""
    return data[: chance.randrange(len(data) + 1)]


def drop(data: bytes, chance: random.Random) -> bytes:
    """A piece less."""
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.randrange(1, 9) :]


def double(data: bytes, chance: random.Random) -> bytes:
    """The same again, so that fields are there twice; last one wins, repeated ones grow."""
    return (data * chance.choice((2, 2, 3, 30)))[:LONGEST]


def splice(data: bytes, chance: random.Random) -> bytes:
    """Some bytes of any kind in between."""
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(chance.randrange(1, 17)) + data[place:]


def lie_about_length(data: bytes, chance: random.Random) -> bytes:
    """A field that says that it is much longer than what follows."""
    field = chance.randrange(1, 13)
    return data + tag(field, LENGTH) + varint(chance.choice(HUGE)) + chance.randbytes(8)


def unknown_field(data: bytes, chance: random.Random) -> bytes:
    """A field of a newer client, of any kind."""
    field, kind = chance.choice((12, 99, 19_000, LARGEST_FIELD)), chance.randrange(8)
    return data + tag(field, kind) + chance.randbytes(chance.choice((0, 4, 8)))


def huge_number(data: bytes, chance: random.Random) -> bytes:
    """A known field's number, of 64 bits, or longer than a varint may be."""
    many = b"\xff" * chance.choice((10, 11, 40))
    number = chance.choice((*map(varint, HUGE), many))
    return data + tag(chance.randrange(1, 13), VARINT) + number


def bad_text(data: bytes, chance: random.Random) -> bytes:
    """A text that is not UTF-8."""
    return data + delimited(chance.choice((1, 3, 7)), chance.choice(NO_UTF8))


def deep(data: bytes, chance: random.Random) -> bytes:
    """Messages or groups within each other, deeper than any parser goes."""
    field, depth = chance.randrange(1, 13), chance.choice((50, 99, 101, 400))
    if chance.random() < 0.5:
        return data + tag(field, GROUP) * depth + tag(field, END_GROUP) * chance.choice((0, depth))
    return data + nested(field, depth)


def wrong_kind(data: bytes, chance: random.Random) -> bytes:
    """A known field in another encoding than its own."""
    size = {VARINT: 1, FIXED64: 8, FIXED32: 4}
    kind = chance.choice(tuple(size))
    return data + tag(chance.randrange(1, 13), kind) + bytes(size[kind])


def noise(data: bytes, chance: random.Random) -> bytes:
    """Nothing of it is left."""
    return chance.randbytes(chance.choice((1, 2, 5, 20, 200)))


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, cut, drop, double, splice, lie_about_length, unknown_field),
    *(huge_number, bad_text, deep, wrong_kind, noise),
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One mutation, or a few on top of each other."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice(MUTATIONS)(data, chance)
    return data
