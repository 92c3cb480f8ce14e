"""A keys file on the disk: changed by one at a time, and whole at every moment."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from filelock import FileLock

from gateway.identity.keys import KeysDocument, read_keys

HEADER = "# Written by `deltafleet keys`. Hashes only: a key is shown once, when it is made.\n"
READABLE = 0o644  # a gateway of another user may read it: it holds no secret


def load_keys(path: Path) -> KeysDocument:
    """Raises OSError, BadKeys."""
    return read_keys(path.read_bytes())


def change_keys(path: Path, change: Callable[[KeysDocument], KeysDocument]) -> None:
    """Put what change makes of it in its place; it is made where it is missing.

    What change raises leaves the file as it was. Raises OSError, BadKeys.
    """
    with FileLock(f"{path}.lock"):
        document = load_keys(path) if path.exists() else KeysDocument()
        _replace(path, _to_text(change(document)))


def _to_text(document: KeysDocument) -> str:
    plain = document.model_dump(mode="json", exclude_defaults=True)
    for one in plain.get("keys", {}).values():
        one["scopes"] = sorted(one.get("scopes", ["infer"]))  # said, though it is the default
    return HEADER + yaml.safe_dump(plain, sort_keys=False)


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as aside:
            aside.write(text)
            aside.flush()
            os.fchmod(aside.fileno(), READABLE)
            os.fsync(aside.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
