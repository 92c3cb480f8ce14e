"""How long work tells what is done of it."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # done bytes, total bytes


def silent(done_bytes: int, total_bytes: int) -> None:
    """Progress that nobody watches."""
    del done_bytes, total_bytes
