"""One copy of the base on a node, whole or not there."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from model_pool.node_cache import DIGESTS, keep
from support.fleet import DEMO, REPO

BASE = DEMO.parent / "base"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def same(target: Path) -> bool:
    return all((target / path.name).read_bytes() == path.read_bytes() for path in BASE.iterdir())


def test_a_base_is_copied_once(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "base"
    assert keep(BASE, target)
    assert same(target) and names(target) == names(BASE) | {DIGESTS}
    assert not keep(BASE, target)


@pytest.mark.parametrize("fault", ["altered", "missing", "strange", "no digests"])
def test_one_that_is_not_whole_is_replaced(tmp_path: Path, fault: str) -> None:
    target = tmp_path / "base"
    keep(BASE, target)
    weights = target / "model.safetensors"
    if fault == "altered":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif fault == "missing":
        weights.unlink()
    elif fault == "strange":
        (target / "other.json").write_text("{}")
    else:
        (target / DIGESTS).unlink()

    assert keep(BASE, target)
    assert same(target) and names(target) == names(BASE) | {DIGESTS}


def test_another_base_in_the_same_place_is_seen(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "base"
    source.mkdir()
    (source / "config.json").write_text("{}")
    keep(source, target)
    (source / "config.json").write_text('{"a": 1}')
    assert keep(source, target)
    assert (target / "config.json").read_text() == '{"a": 1}'


def test_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    for name in (".base.partial-1-ab", ".base.earlier-1-ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    keep(BASE, tmp_path / "base")
    assert names(tmp_path) == {"base", ".base.lock"}


async def test_of_many_at_once_one_copies(tmp_path: Path) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "model_pool.node_cache", str(BASE), str(tmp_path / "base")),
            cwd=REPO,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]
    told = [(await process.communicate())[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum('"is_new": true' in text for text in told) == 1
    assert same(tmp_path / "base")


async def test_a_source_that_is_not_there_is_told(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "model_pool.node_cache", str(tmp_path / "no"), str(tmp_path / "b")),
        cwd=REPO,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 1 and b"base_not_kept" in told
    assert not (tmp_path / "b").exists()
