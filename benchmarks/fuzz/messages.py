"""Messages of the right type with values that nobody means, for any message type (pure)."""

from __future__ import annotations

import math
import random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

NUMBERS = (0, 1, -1, 2, 7, 100, 10**6, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
FRACTIONS = (
    *(0.0, -0.0, 0.5, 1.0, 2.0, -1.0, 1e-300, 5e-324, 1e308),
    *(math.nan, math.inf, -math.inf),
)
TEXTS = (
    *("", " ", "a", "What is 3 plus 4?", "base", "sql", "arithmetic", "day", "caller", "\x00"),
    *("\x07\x1b[2J", "\u202e\u200b\ufeff", "\U0010ffff\ud7ff", "e" + "\u0301" * 300, "../../etc"),
    *("'; drop table requests; --", "%s%n{0}${x}", "\r\nx-evil: 1", "\n\n\n", "🦆" * 50),
    *("a" * 300, "word " * 200, "<|im_end|><|endoftext|>", "{question}{answer}{answers}"),
)
LONG_TEXTS = ("x" * 100_000, "é" * 50_000, "a b " * 100_000, "\x00" * 10_000, "\u0301" * 100_000)
MANY = 20_000  # of a repeated field, now and then
LONG_SHARE, MANY_SHARE = 0.003, 0.001
DEEPEST = 4


def wild(kind: Descriptor, chance: random.Random, depth: int = 0) -> Message:
    """A message of this type: some fields set, to anything that the type allows."""
    message: Message = GetMessageClass(kind)()
    for field in kind.fields:
        if chance.random() < 0.45 and depth < DEEPEST:
            _set(message, field, chance, depth)
    return message


def _set(message: Message, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return  # no request has one
    if field.is_repeated:
        many = chance.random() < MANY_SHARE
        count = MANY if many else chance.choice((1, 2, 3, 17, 300))
        one = _value(field, chance, depth)  # the same again: what is asked is how many there are
        getattr(message, field.name).extend([one] * count)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(_value(field, chance, depth))
    else:
        setattr(message, field.name, _value(field, chance, depth))


def _value(field: FieldDescriptor, chance: random.Random, depth: int) -> Any:
    kinds = FieldDescriptor
    if field.message_type is not None:
        return wild(field.message_type, chance, depth + 1)
    if field.cpp_type in (kinds.CPPTYPE_INT32, kinds.CPPTYPE_ENUM):
        return chance.choice([one for one in NUMBERS if -(2**31) <= one < 2**31])
    if field.cpp_type == kinds.CPPTYPE_INT64:
        return chance.choice(NUMBERS)
    if field.cpp_type in (kinds.CPPTYPE_DOUBLE, kinds.CPPTYPE_FLOAT):
        return chance.choice(FRACTIONS)
    if field.cpp_type == kinds.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.cpp_type == kinds.CPPTYPE_STRING:
        return wild_text(chance)
    raise TypeError(f"{field.full_name}: no values for such a field")


def wild_text(chance: random.Random) -> str:
    """Mostly short; control characters, marks that stack up, and texts that mean something."""
    if chance.random() < LONG_SHARE:
        return chance.choice(LONG_TEXTS)
    return chance.choice(TEXTS)
