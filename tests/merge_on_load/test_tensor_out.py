"""Blocks of tensors reach their places in a file, whatever their sizes and order."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load.tensor_out import BUFFER_BYTES, PAGE_BYTES, OutFile, TensorOut

SIZES = st.lists(st.integers(1, 3 * PAGE_BYTES), min_size=1, max_size=12)


def write_blocks(file, offset, content, ends, order=None):
    """Write content, uint8[...], as blocks that end at `ends`."""
    out = TensorOut(file, offset, content.dtype, content.nbytes)
    blocks = list(zip([0, *ends], [*ends, content.size], strict=True))
    for begin, end in order(blocks) if order else blocks:
        out.room(begin, end)[:] = content[begin:end]
        out.put(begin, end)


def random_bytes(size):
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 2 * PAGE_BYTES), st.randoms(), st.booleans())
def test_blocks_of_any_size_in_any_order(tmp_path_factory, sizes, offset, random, is_shuffled):
    path = tmp_path_factory.mktemp("out") / "file"
    content = random_bytes(sum(sizes))
    with OutFile.create(path, offset + content.size + 5) as file:
        order = (lambda blocks: random.sample(blocks, len(blocks))) if is_shuffled else None
        write_blocks(file, offset, content, np.cumsum(sizes)[:-1].tolist(), order)

    expected = bytes(offset) + content.tobytes() + bytes(5)
    assert path.read_bytes() == expected


def test_a_tensor_larger_than_the_buffer_beside_others(tmp_path):
    first, second = random_bytes(2 * BUFFER_BYTES + 4321), random_bytes(777)
    with OutFile.create(tmp_path / "file", first.size + second.size) as file:
        write_blocks(file, first.size, second, [])
        write_blocks(file, 0, first, list(range(100_000, first.size, 100_000)))

    assert (tmp_path / "file").read_bytes() == first.tobytes() + second.tobytes()


def test_a_block_larger_than_the_buffer(tmp_path):
    content = random_bytes(BUFFER_BYTES + 3 * PAGE_BYTES + 1)
    with OutFile.create(tmp_path / "file", 10 + content.size) as file:
        write_blocks(file, 10, content, [5])

    assert (tmp_path / "file").read_bytes()[10:] == content.tobytes()


@pytest.mark.parametrize("refuses", ["open", "write"])
def test_a_filesystem_without_direct_writes(tmp_path, monkeypatch, refuses):
    """Some refuse the flag, some the writes: here by hand, as this machine has no such disk."""
    opened, written = os.open, os.pwrite
    direct = []

    def open_or_refuse(path, flags, *rest):
        if flags & os.O_DIRECT and refuses == "open":
            raise OSError(errno.EINVAL, "no such flag")
        descriptor = opened(path, flags, *rest)
        direct.extend([descriptor] if flags & os.O_DIRECT else [])
        return descriptor

    def write_or_refuse(descriptor, *rest):
        if descriptor in direct:
            raise OSError(errno.EINVAL, "not so")
        return written(descriptor, *rest)

    monkeypatch.setattr(os, "open", open_or_refuse)
    monkeypatch.setattr(os, "pwrite", write_or_refuse)
    content = random_bytes(5 * PAGE_BYTES)
    with OutFile.create(tmp_path / "file", content.size) as file:
        write_blocks(file, 0, content, [100])

    assert (tmp_path / "file").read_bytes() == content.tobytes()


def test_a_file_that_tells_of_a_full_disk_when_it_is_closed(tmp_path, monkeypatch):
    """A disk on a network may. What stays open there cannot be removed."""
    path, left_open, close = tmp_path / "file", set(), os.close

    def close_and_tell(descriptor):
        close(descriptor)
        if descriptor in left_open:
            left_open.remove(descriptor)
            raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "close", close_and_tell)
    with pytest.raises(OSError, match="no room"), OutFile.create(path, 5):
        mine = [one for one in Path("/proc/self/fd").iterdir() if one.exists()]
        left_open |= {int(one.name) for one in mine if one.samefile(path)}
        assert left_open

    assert not left_open
