"""Which prepared deltas stay on the card, within a budget. Pure."""

from __future__ import annotations

from pathlib import Path


class LeastRecent:
    """Keeps what was used last; what was used longest ago goes first."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._sizes: dict[Path, int] = {}  # the least recently used first

    def use(self, key: Path, size_bytes: int) -> list[Path] | None:
        """Make room for a key and count it as used now: the keys that go. None: it has no room,
        and nothing changes.
        """
        if size_bytes > self._budget_bytes:
            return None
        self._sizes.pop(key, None)
        gone = []
        while sum(self._sizes.values()) + size_bytes > self._budget_bytes:
            oldest = next(iter(self._sizes))
            del self._sizes[oldest]
            gone.append(oldest)
        self._sizes[key] = size_bytes
        return gone

    def forget(self, key: Path) -> None:
        """The key is gone already."""
        self._sizes.pop(key, None)
