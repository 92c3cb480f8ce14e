"""What became of one request, as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Record:
    """One request as its caller saw it.

    phase: of the run. at_s: when it was to be sent, since the phase began. lag_s: how much later
    the generator did. Times count from at_s, so that a generator that is late hides nothing.
    outside_s: of the time since it was sent, what the gateway's own clock does not have: the way
    there and back, and how long the generator took to see what had come. reason: empty for an
    answer. is_routed, is_right: None where that is not known. total_s: to the end, also of a
    failure.
    """

    phase: int
    caller: str
    task: str
    is_streamed: bool
    at_s: float
    lag_s: float
    deadline_s: float
    total_s: float = 0.0
    outside_s: float | None = None
    first_token_s: float | None = None
    per_token_s: float | None = None
    reason: str = ""
    model: str = ""
    is_routed: bool | None = None
    is_right: bool | None = None
    prompt_token_count: int = 0
    output_token_count: int = 0
    cost_nano_usd: int = 0
    baselines: dict[str, int] = field(default_factory=dict)

    @property
    def is_answered(self) -> bool:
        """Whether a whole answer came."""
        return not self.reason

    @property
    def is_good(self) -> bool:
        """Whether a whole answer came in time."""
        return self.is_answered and self.total_s <= self.deadline_s

    @property
    def end_s(self) -> float:
        """When it ended, since the phase began."""
        return self.at_s + self.total_s

    def to_line(self) -> str:
        """One line, with its end."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


def read_line(line: str) -> Record:
    """What `to_line` wrote."""
    return Record(**json.loads(line))


def read_records(paths: Iterable[Path]) -> list[Record]:
    """All whole lines of files that may still be written to, by arrival."""
    records = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                records.append(read_line(line))
    return sorted(records, key=lambda one: (one.phase, one.at_s))
