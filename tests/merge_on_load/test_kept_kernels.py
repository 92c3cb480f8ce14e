"""Compiled kernels are found on the disk again, by any process, while no file changes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from merge_on_load.kernels import compiled, lines
from merge_on_load.methods import consensus, pruning, sums, tiles

# Prints a result of each kernel, then how many were found and how many were compiled.
DECODE = """
import numpy as np
from merge_on_load.kernels import add_marked, add_product, add_sparse, add_steps
from merge_on_load.kernels import lowrank, sparse, steps

base, ones = np.ones((4, 64), np.float32), np.ones((4, 1), np.float32)
bytes_of = np.random.default_rng(5).bytes


def show(add, *inputs):
    out = np.empty_like(base)
    add(base, *inputs, out)
    print(out.tobytes().hex())


def codes(bits, words):
    return np.frombuffer(bytes_of(4 * words * bits * 4), np.uint8).reshape(4, -1)


marks = np.zeros((4, 8), np.uint8)
marks[:, 3] = 1
for bits in (3, 4):
    show(add_steps, codes(bits, 2), ones, 64, bits)
show(add_sparse, codes(2, 1), ones, np.arange(4, dtype=np.int32), 32, 32, 2)
show(add_marked, codes(2, 1), ones, marks, 32, 1, 2)
left = np.frombuffer(bytes_of(16), np.int8).reshape(4, 4)
right = np.frombuffer(bytes_of(256), np.int8).reshape(2, 128)
scale, none = np.ones(64, np.float32), np.empty((4, 0), np.uint8)
show(add_product, left, right, scale[:4], scale, none, scale[:4])

used = [steps._ADDERS[3], steps._ADDERS[4], sparse._ADDERS[2], sparse._MARKED_ADDERS[2]]
used.append(lowrank._ADDERS[8])
for counts in ("cache_hits", "cache_misses"):
    print(sum(sum(getattr(one.stats, counts).values()) for one in used))
"""


def test_another_process_finds_what_one_has_compiled(tmp_path: Path) -> None:
    """Also of kernels that differ by the functions that they contain."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", DECODE],
            check=True,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.split()
        for _ in range(2)
    )

    assert first[-2:] == ["0", "5"]
    assert second[-2:] == ["5", "0"]
    assert first[:-2] == second[:-2]
    assert len(set(first[:-2])) == 5


def test_a_closure_says_which_it_is() -> None:
    step = 2

    def add(number: int) -> int:
        return number + step

    with pytest.raises(ValueError, match="add is a closure: which of them it is must be told"):
        compiled(add)
    assert compiled(add, "by 2")(3) == 5


def test_they_are_of_all_files_that_they_may_contain() -> None:
    """Numba alone would keep a kernel after a change to another that it contains."""
    both = lines.stamp_of(Path(tiles.__file__).parent)
    for kernel in (tiles.read, sums.weigh, consensus.merge, pruning.keep):
        assert kernel._cache._cache_file._source_stamp == both
    assert both[1] > lines.stamp_of(Path(lines.__file__).parent)[1]
