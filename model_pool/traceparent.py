"""The header by which a caller says which trace a call belongs to (W3C Trace Context)."""

from __future__ import annotations

import re
from collections.abc import Iterable

KEY = "traceparent"
# Version 00 ends here; a later version may go on after another dash.
_FORM = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.ASCII,
)
_SAMPLED = 0x01


def header_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The header of a call, "" where it has none, or a malformed one.

    A malformed one counts as none, as the recommendation asks (section 3.2.2).
    """
    values = [value for key, value in metadata or () if key == KEY]
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    return values[0] if parts_of(values[0]) else ""


def parts_of(header: str) -> tuple[int, int, int] | None:
    """Trace, parent and flags; None for a malformed header."""
    found = _FORM.fullmatch(header)
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    trace, parent, flags = (int(found[name], 16) for name in ("trace", "parent", "flags"))
    return (trace, parent, flags) if trace and parent else None


def sampled_trace_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The trace that a call's metadata names, 32 hex digits; "" where it names none that is kept.

    A trace that its own tracer does not sample is not told: what points to it would lead nowhere.
    """
    parts = parts_of(header_of(metadata))
    return f"{parts[0]:032x}" if parts and parts[2] & _SAMPLED else ""
