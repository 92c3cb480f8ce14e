"""What lives as long as the process is kept from the garbage collector, and is let go of again."""

from __future__ import annotations

import subprocess
import sys

STEPS = """
import gc, weakref
from gateway.long_lived import set_apart, set_apart_again

class Circle:
    def __init__(self):
        self.self = self

def make():
    one = Circle()
    return one, weakref.ref(one)

set_apart_again()
assert gc.get_freeze_count() == 0, "nothing was set apart before"
one, ref = make()
set_apart()
assert gc.get_freeze_count() > 1000
del one
gc.collect()
assert ref() is not None, "it is not looked at any more"
set_apart_again()
assert ref() is None, "and yet it goes"
assert gc.get_freeze_count() > 1000
"""


def test_what_is_set_apart_is_not_looked_at_until_it_is_set_apart_again() -> None:
    # In a process of its own: it is for all of a process.
    subprocess.run([sys.executable, "-c", STEPS], check=True)
