"""Finished requests as the page counts them: what happened, each once, and no more than it may."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.answer import AnswerPiece
from gateway.entry import Entry
from gateway.page.finished import CAPACITY, LONGEST_NAME, FinishedRequests
from gateway.router import Contribution, ModelKind, Route, RouteReason, Target

BASELINES = {"dear": 5_000, "cheap": 50}


def ended(
    model: str, outcome: str, cost: int, tokens: int, total_s: float, caller: str = ""
) -> tuple[Entry, object]:
    clock = itertools.chain([0.0], itertools.repeat(total_s))
    route = Route(
        Target(model, ModelKind.SPECIALIST, 1.0),
        RouteReason.CLASSIFIED,
        "task",
        0.75,
        "told nowhere",
        (),
        decided_by="static",
        contributions=(Contribution("first", 1, None), Contribution("second", 1, 0.5)),
    )
    entry = Entry("r", route, ["a secret prompt"], clock.__next__, caller=caller)
    if tokens:
        entry.add(AnswerPiece("a secret answer", 3, tokens, cost, 0))
    entry.close(outcome, dict(BASELINES))
    return entry, entry.row(1)


ENDS = st.lists(
    st.tuples(
        st.sampled_from(["sql", "base"]),
        st.sampled_from(["answered", "cancelled", "failed"]),
        st.integers(0, 10**12),
        st.integers(0, 50),
        st.floats(0, 10_000),
    ),
    max_size=30,
)


@given(ENDS)
def test_sums_are_of_every_request(ends: list[tuple[str, str, int, int, float]]) -> None:
    finished, rows = FinishedRequests(), []
    for end in ends:
        entry, row = ended(*end)
        finished.add(entry, row)
        rows.append(row)
    sums = finished.sums(7.0, {})
    answered = [row for row in rows if row.outcome == "answered"]

    assert sums.at_s == 7.0
    assert sum(sums.requests.values()) == len(rows)
    assert sums.failed_count == len(rows) - len(answered)
    assert sums.cost_nano_usd == sum(row.cost_nano_usd for row in rows)
    assert sums.output_token_count == sum(row.output_token_count for row in rows)
    for name in BASELINES:
        theirs = sum(row.baselines[name] for row in answered)
        assert sums.baselines_nano_usd.get(name, 0) == theirs
    assert sum(sums.total.counts) == len(rows)
    assert sum(sums.first_token.counts) == sum(row.first_token_us is not None for row in rows)


def test_a_request_falls_into_the_bucket_that_prometheus_puts_it_into() -> None:
    rng = random.Random(3)
    edges = [0.01, 0.05, 0.0500001, 7680.0, 7681.0]
    for total_s in (*edges, *(rng.random() for _ in range(20))):
        finished = FinishedRequests()
        finished.add(*ended("sql", "answered", 1, 1, total_s))
        total = finished.sums(0, {}).total
        place = total.counts.index(1)
        rounded_s = round(total_s * 1e6) / 1e6

        assert rounded_s <= total.upper_bounds_s[place]
        assert place == 0 or rounded_s > total.upper_bounds_s[place - 1]


def test_the_last_are_kept_and_long_names_are_cut() -> None:
    finished = FinishedRequests()
    for number in range(CAPACITY + 5):
        finished.add(*ended("sql", "answered", number, 1, 1.0, caller="c" * 10_000))
    kept = finished.latest_first()

    assert [one.cost_nano_usd for one in kept] == list(range(CAPACITY + 4, 4, -1))
    assert {len(one.caller) for one in kept} == {LONGEST_NAME}
    assert kept[0].confidence == 0.5 and kept[0].decided_by == "static"
    assert "secret" not in repr(kept) and "told nowhere" not in repr(kept)
