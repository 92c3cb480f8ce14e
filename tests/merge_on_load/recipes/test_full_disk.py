"""A disk without room: the command says what it lacks, leaves nothing, and may be run again."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from support.fleet import REPO
from support.full_disk import OTHER, fill, mounted

SHAPE = (512, 1024)
NEEDED_BYTES = 4 * 512 * 1024 * 2
DISK_BYTES = 16 << 20

# The command itself, and beside it one who takes the disk's room when it opens a file of its
# output. So the room was there when the command looked for it, and is not when it writes.
CROWDED = """
import errno, os, sys
from pathlib import Path
from support.full_disk import fill

disk, moment, left_bytes, has_direct = sys.argv[1:5]
del sys.argv[1:5]
crowded = []

def crowd(event, arguments):
    if event != "open" or ".partial-" not in str(arguments[0]):
        return
    if moment in str(arguments[0]) and not crowded:
        crowded.append(moment)
        fill(Path(disk), int(left_bytes))
    if arguments[2] & os.O_DIRECT and has_direct == "no":
        raise OSError(errno.EINVAL, "no such flag")

sys.addaudithook(crowd)
from gateway.__main__ import main
main()
"""


def command(*arguments, **environment):
    """deltafleet ARGUMENTS."""
    return _ended("-m", "gateway", *arguments, **environment)


def crowded(disk, moment, left_bytes, *arguments, has_direct="yes"):
    """The same; at the moment when it opens a file so named, the disk has so much room left.

    has_direct: "no" for a filesystem that does not know O_DIRECT.
    """
    return _ended("-c", CROWDED, disk, moment, left_bytes, has_direct, *arguments)


def _ended(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'tests'}", **environment},
        capture_output=True,
        text=True,
    )


def check_refused(ended, out, told, needed_bytes=0):
    """It failed for want of room, says so, and left nothing."""
    assert ended.returncode == 1, ended
    assert ended.stderr.startswith(f"Error: {told} (file: {out}, "), ended.stderr
    if needed_bytes:
        assert int(re.search(r"expected: \D*(\d+)", ended.stderr)[1]) >= needed_bytes
    assert int(re.search(r"found: (\d+)", ended.stderr)[1]) < DISK_BYTES
    assert {path.name for path in out.parent.iterdir()} <= {OTHER, "lost+found"}


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request, tmp_path):
    """The root of an empty disk of DISK_BYTES."""
    place, image = tmp_path / "disk", tmp_path / "image"
    place.mkdir()
    how = ("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none")
    if request.param == "ext4":
        make = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if make is None or not Path("/dev/loop-control").exists():
            pytest.skip("this machine has no mkfs.ext4, or no loop devices")
        image.touch()
        os.truncate(image, DISK_BYTES)
        subprocess.run([make, "-q", "-m", "0", image], check=True)
        how = ("-t", "ext4", "-o", "loop", image)
    with mounted(place, *how) as root:
        yield root


@pytest.fixture
def recipe(tmp_path, save):
    """The mean of two models with four tensors and a tokenizer."""
    for seed, name in enumerate(("a", "b")):
        random = torch.Generator().manual_seed(seed)
        weights = {
            f"model.layers.{layer}.w.weight": torch.randn(SHAPE, generator=random).bfloat16()
            for layer in range(4)
        }
        (save(name, weights) / "tokenizer.json").write_bytes(b"{}".ljust(200_000))
    file = tmp_path / "recipe.yaml"
    models = [{"model": name, "parameters": {"weight": 1}} for name in ("a", "b")]
    file.write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    return file


def check_merges(recipe, out):
    """Now there is room."""
    ended = command("merge", recipe, out)

    assert ended.returncode == 0, ended
    a, b, found = (
        load_file(path / "model.safetensors")
        for path in (recipe.parent / "a", recipe.parent / "b", out)
    )
    for name, tensor in found.items():
        assert torch.equal(tensor, ((a[name].float() + b[name].float()) / 2).bfloat16())
    assert {path.name for path in out.parent.iterdir()} <= {out.name, "lost+found"}


def test_a_disk_that_is_too_small(disk, recipe):
    out = disk / "out"
    fill(disk, NEEDED_BYTES // 2)

    check_refused(command("merge", recipe, out), out, "not enough room", NEEDED_BYTES)

    (disk / OTHER).unlink()
    check_merges(recipe, out)


def test_a_disk_that_is_full(disk, recipe):
    """On some there is no room for a directory, even."""
    out = disk / "out"
    fill(disk)

    refused = command("merge", recipe, out)

    no_directory = f"nothing was written: {os.strerror(errno.ENOSPC)}"
    told = no_directory if no_directory in refused.stderr else "not enough room"
    check_refused(refused, out, told)
    (disk / OTHER).unlink()
    check_merges(recipe, out)


@pytest.mark.parametrize(
    ("disk", "has_direct"), [("tmpfs", "yes"), ("ext4", "yes"), ("ext4", "no")], indirect=["disk"]
)
def test_a_disk_that_fills_while_it_is_written(disk, recipe, has_direct):
    out = disk / "out"
    told = f"nothing was written: {os.strerror(errno.ENOSPC)}"
    arguments = ("merge", "--threads", 4, recipe, out)

    for moment, left_bytes, needed_bytes in (
        ("model.safetensors", 0, 0),  # no room for the header, or the file
        ("model.safetensors", NEEDED_BYTES // 2, NEEDED_BYTES),  # threads meet it
        ("tokenizer.json", 0, NEEDED_BYTES),  # at the last
    ):
        ended = crowded(disk, moment, left_bytes, *arguments, has_direct=has_direct)
        check_refused(ended, out, told, needed_bytes)
        (disk / OTHER).unlink()  # which proves that the disk was filled

    check_merges(recipe, out)


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_a_disk_that_fills_while_a_delta_is_packed(disk, recipe):
    out = disk / "b.delta"
    base, model = recipe.parent / "a", recipe.parent / "b"
    arguments = ("pack", "--base", base, "--model", model, "--codec", "lossless", "--out", out)

    ended = crowded(disk, ".safetensors", 100_000, *arguments)
    check_refused(ended, out, f"nothing was written: {os.strerror(errno.ENOSPC)}")
    (disk / OTHER).unlink()

    assert command(*arguments).returncode == 0
    assert {path.name for path in disk.iterdir()} <= {out.name, "lost+found"}


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_no_room_to_keep_compiled_code(disk, recipe):
    """That costs time, and nothing else."""
    fill(disk, 16384)

    ended = command("merge", recipe, recipe.parent / "out", NUMBA_CACHE_DIR=str(disk))

    assert ended.returncode == 0, ended
    (disk / OTHER).unlink()
