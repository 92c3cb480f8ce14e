"""The page's documents: made seldom, once for all who look, and of bounded size."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.page.documents import Document
from gateway.page.history import Bar
from gateway.page.state import OTHERS, SHOWN_MODEL_COUNT, Snapshot, history_json


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Maker:
    """Makes numbered documents, each of which takes so many seconds of computing."""

    def __init__(self, busy: Clock, takes_s: float) -> None:
        self.count = 0
        self._busy = busy
        self._takes_s = takes_s

    async def __call__(self) -> Document:
        self.count += 1
        await asyncio.sleep(0)
        self._busy.now_s += self._takes_s
        return Document.of_json(self.count)


async def test_all_who_look_at_once_share_one() -> None:
    clock, busy = Clock(), Clock()
    make = Maker(busy, 0)
    snapshot = Snapshot(make, 1.0, clock, busy)

    found = await asyncio.gather(*(snapshot.latest() for _ in range(20)))
    assert {one.body for one in found} == {b"1"}
    clock.now_s = 0.9
    assert (await snapshot.latest()).body == b"1"
    clock.now_s = 1.0
    assert (await snapshot.latest()).body == b"2"


async def test_what_takes_long_is_made_seldom() -> None:
    clock, busy = Clock(), Clock()
    snapshot = Snapshot(Maker(busy, 0.5), 1.0, clock, busy)

    await snapshot.latest()
    clock.now_s = 9.9
    assert (await snapshot.latest()).body == b"1"
    clock.now_s = 10.0
    assert (await snapshot.latest()).body == b"2"


def test_json_has_no_infinity() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Document.of_json({"a": float("inf")})


BARS = st.lists(
    st.dictionaries(st.integers(0, 30).map(lambda n: f"m-{n}"), st.integers(1, 99), max_size=30),
    max_size=5,
)


@given(BARS)
def test_bars_name_as_many_models_as_can_be_told_apart(requests: list[dict[str, int]]) -> None:
    told = history_json([], [Bar(60.0 * i, one) for i, one in enumerate(requests)])["bars"]
    names = {name for one in told for name in one["requests"]} - {OTHERS}

    assert len(names) <= SHOWN_MODEL_COUNT
    assert [sum(one["requests"].values()) for one in told] == [
        sum(one.values()) for one in requests
    ]
    assert all(count > 0 for one in told for count in one["requests"].values())
