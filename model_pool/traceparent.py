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


def sampled_trace_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The trace that a call's metadata names, 32 hex digits; "" where it names none that is kept.

    A trace that its own tracer does not sample is not told: what points to it would lead nowhere.
    A malformed header counts as none, as the recommendation asks (section 3.2.2).
    """
    values = [value for key, value in metadata or () if key == KEY]
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    found = _FORM.fullmatch(values[0])
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return ""
    if not (int(found["trace"], 16) and int(found["parent"], 16)):
        return ""
    return found["trace"] if int(found["flags"], 16) & _SAMPLED else ""
