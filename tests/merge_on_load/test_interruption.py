"""Work that is cut short leaves nothing under the final name."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from merge_on_load import Delta, pack, unpack


class Interrupted(Exception):
    pass


def interrupt(done_bytes, total_bytes):
    if done_bytes > total_bytes / 2:
        raise Interrupted


def test_progress_counts_bytes_up_to_the_whole(tmp_path, base, tuned):
    told = []
    delta = pack(
        base, tuned, "int8", tmp_path / "t.delta", progress=lambda *pair: told.append(pair)
    )
    packed = told.copy()
    told.clear()
    unpack(base, delta.path, tmp_path / "out", progress=lambda *pair: told.append(pair))

    total = delta.measured["full_size_bytes"]
    for pairs in (packed, told):
        assert [done for done, _ in pairs] == sorted(done for done, _ in pairs)
        assert pairs[-1] == (total, total)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_pack_leaves_what_was_there(tmp_path, base, tuned, overwrite):
    out = tmp_path / "t.delta"
    earlier = pack(base, tuned, "lossless", out).digest if overwrite else None

    with pytest.raises(Interrupted):
        pack(base, tuned, "onebit", out, overwrite=overwrite, progress=interrupt)

    left = ["base", "t.delta", "tuned"] if overwrite else ["base", "tuned"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    if overwrite:
        assert Delta.open(out).digest == earlier


def test_an_interrupted_unpack_leaves_nothing(tmp_path, base, tuned):
    delta = pack(base, tuned, "lossless", tmp_path / "t.delta")

    with pytest.raises(Interrupted):
        unpack(base, delta.path, tmp_path / "out", progress=interrupt)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "t.delta", "tuned"]


KILLED = """
import os, signal, sys
from pathlib import Path
from merge_on_load import {what}

def die(done_bytes, total_bytes):
    if done_bytes > total_bytes / 2:
        os.kill(os.getpid(), signal.SIGKILL)

{what}({arguments}, progress=die)
"""


@pytest.mark.parametrize("what", ["pack", "unpack"])
def test_a_killed_process_leaves_nothing_under_the_final_name(tmp_path, base, tuned, what):
    delta = pack(base, tuned, "lossless", tmp_path / "t.delta").path
    out = tmp_path / "out"
    paths = [str(base), str(tuned), "onebit"] if what == "pack" else [str(base), str(delta)]
    arguments = ", ".join(repr(path) for path in [*paths, str(out)])

    died = subprocess.run([sys.executable, "-c", KILLED.format(what=what, arguments=arguments)])

    assert died.returncode == -signal.SIGKILL
    assert not out.exists()
    partial = list(tmp_path.glob(".out.partial-*"))
    assert len(partial) == 1  # what the killed process wrote, under a name that nobody reads

    if what == "pack":
        pack(base, tuned, "onebit", out).verify()
    else:
        unpack(base, delta, out)
    assert isinstance(out, Path) and out.is_dir()
