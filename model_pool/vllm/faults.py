"""A MergeError as text and back: vLLM's calls between processes keep only an error's text."""

from __future__ import annotations

import json

from merge_on_load import errors
from merge_on_load.errors import MergeError

_OPEN = "[deltafleet fault "
_CLOSE = " fault ends]"


def to_text(error: MergeError) -> str:
    """One line that `from_text` finds inside a longer one."""
    told = {
        "kind": type(error).__name__,
        "problem": error.problem,
        "file": error.file,
        "tensor": error.tensor,
        "expected": None if error.expected is None else str(error.expected),
        "found": None if error.found is None else str(error.found),
    }
    return f"{_OPEN}{json.dumps(told)}{_CLOSE}"


def from_text(text: str) -> MergeError | None:
    """The error that `to_text` wrote somewhere in `text`, or None."""
    _, is_there, rest = text.partition(_OPEN)
    if not is_there:
        return None
    told = json.loads(rest.partition(_CLOSE)[0])
    kind = getattr(errors, told.pop("kind"), MergeError)
    error: MergeError = kind(told.pop("problem"), **told)
    return error
