"""Rows for a ledger, plain ones and any."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from gateway.ledger_store import RequestRow
from gateway.ledger_store.tables import DAY_US

PLAIN = RequestRow(
    request_id="r",
    finished_at_us=DAY_US,
    model="sql",
    task="sql",
    reason="task",
    outcome="answered",
    worker="w-1",
    weights_digest="d",
    prompt_token_count=3,
    output_token_count=5,
    busy_us=7,
    first_token_us=None,
    total_us=11,
    cost_nano_usd=13,
    baselines={"dear": 1_000, "cheap": 10},
    row_id="",
)


def row(number: int, **changes: object) -> RequestRow:
    """A row with an id of its own."""
    return replace(PLAIN, request_id=f"r-{number}", row_id=f"id-{number}", **changes)


counts = st.integers(0, 10**12)
NAMES = st.sampled_from(["sql", "base", "größe", ""])
ANY_ROW = st.builds(
    replace,
    st.just(PLAIN),
    request_id=st.just("r"),
    row_id=st.uuids().map(str),
    finished_at_us=st.integers(0, 6 * DAY_US - 1),
    model=NAMES,
    task=NAMES,
    caller=NAMES,
    outcome=st.sampled_from(["answered", "refused", "cancelled"]),
    prompt_token_count=counts,
    output_token_count=counts,
    busy_us=counts,
    cost_nano_usd=counts,
    baselines=st.dictionaries(st.sampled_from(["dear", "cheap"]), counts),
)
