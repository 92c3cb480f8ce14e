"""Which trace a call belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_pool.traceparent import sampled_trace_id

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def told(value: str | bytes) -> str:
    return sampled_trace_id([("x-request-id", "1"), ("traceparent", value)])


@pytest.mark.parametrize(
    "value",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-ff",  # flags that nobody knows yet
        f"cc-{TRACE}-{PARENT}-01",  # a version that nobody knows yet
        f"cc-{TRACE}-{PARENT}-01-what-ever",
    ],
)
def test_a_sampled_trace_is_told(value: str) -> None:
    assert told(value) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        f"00-{TRACE}-{PARENT}-00",  # not sampled
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        "",
        f"00-{TRACE}-{PARENT}-01".encode(),
    ],
)
def test_no_other_is(value: str | bytes) -> None:
    assert told(value) == ""


def test_two_headers_are_none() -> None:
    header = ("traceparent", f"00-{TRACE}-{PARENT}-01")
    assert sampled_trace_id([header, header]) == ""
    assert sampled_trace_id(None) == ""


@given(st.text())
def test_any_text_gives_a_trace_or_none(value: str) -> None:
    found = told(value)
    assert found == "" or (len(found) == 32 and found in value)
