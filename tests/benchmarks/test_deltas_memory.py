"""The measurement of packing's memory, on models so small that it takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.deltas import memory


def test_each_packing_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "EMBEDDING", (256, 64))
    monkeypatch.setattr(memory, "LAYER", {"mlp.up_proj": (96, 64)})

    found = memory.measure(
        ["onebit", "auto --max-bytes"], layer_count=2, heads=["lm_head"], directory=tmp_path
    )

    assert found["model_bytes"] == 2 * (256 * 64 + 2 * 96 * 64)
    assert list(found["packed"]) == ["onebit", "auto --max-bytes"]
    for one in found["packed"].values():
        assert 10_000_000 < one["anonymous_bytes"] < found["limit_bytes"]  # imports alone are more
        assert 0 < one["stored_bytes"] < 2 * found["model_bytes"]
    assert not list(tmp_path.iterdir())
