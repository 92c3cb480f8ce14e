"""What the ledger says, beside what the callers were told."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.traffic import Told


def rows_of(ledger: Path) -> Counter[tuple[str, str]]:
    """How many rows there are of each (request id, outcome)."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return Counter(connection.execute("SELECT request_id, outcome FROM requests").fetchall())


def compared(told: Sequence[Told], rows: Counter[tuple[str, str]]) -> dict[str, int]:
    """Answers that are missing, twice there, or there though nobody was told."""
    answered = {one.request_id for one in told if one.is_whole}
    written = {name: count for (name, outcome), count in rows.items() if outcome == "answered"}
    return {
        "answered requests, as callers saw them": len(answered),
        "of these without a row": len(answered - set(written)),
        "requests with two rows as answered": sum(count > 1 for count in written.values()),
        "rows of answers whose caller was cut off before the end": len(set(written) - answered),
    }
