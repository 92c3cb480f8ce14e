"""What lives as long as the process, kept from the garbage collector.

A full collection looks at every object there is: tables of words and modules are half a million of
them, and a tenth of a second in which no request goes on, every few seconds under load.
"""

from __future__ import annotations

import gc

# Requests under way hold more than Python's 700 new objects, so that it would look at them again
# and again; so many are looked at in a millisecond.
YOUNG_COUNT = 10_000


def set_apart() -> None:
    """All that there is now. For a process of our own, once it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_COUNT, *gc.get_threshold()[1:])


def set_apart_again() -> None:
    """The same, where it was done before: what went meanwhile is let go of."""
    if gc.get_freeze_count():
        gc.unfreeze()
        set_apart()
