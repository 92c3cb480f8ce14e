"""CODECS.md, from figures that are made up."""

from benchmarks.deltas import report_quality, report_speed
from benchmarks.deltas.quality import AUTO, TRIALS


def figures(size_bytes: int, score: float) -> dict:
    return {
        "size_bytes": size_bytes,
        "full_size_bytes": 2_000_000,
        "parameter_count": 1_000_000,
        "codings": ["lossless", "sparse:keep=32"],
        "divergence_nats": 0.01,
        "tuned_score": 0.9,
        "score": score,
    }


def test_quality_is_told_of_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(report_quality, "PICTURE", tmp_path / "codecs.svg")
    found = {
        "demo/arithmetic": {AUTO: figures(80_000, 0.9), TRIALS[0].label: figures(900_000, 0.45)},
        "demo/triage": {AUTO: figures(50_000, 0.9)},
    }

    text, goals = report_quality.render(found)

    assert "| 0.900 | 0.900 | 0.0100 | 80 | **25.0** | `sparse:keep=32` |" in text
    assert f"| {TRIALS[0].label} | 2.2 / 0.500 |" in text
    assert [goal.is_reached for goal in goals] == [True, False]
    picture = (tmp_path / "codecs.svg").read_text()
    assert "demo/triage" in picture  # beside its point
    assert "every specialist" in picture
    assert "BitDelta" in picture


def test_speed_is_told_beside_copies():
    seconds = {"copy_": [1.0, 2.0, 1.0], "write": [1.0, 4.0, 2.0]}
    found = {
        "weight_bytes": 10**9,
        "codings": {"int4": {"seconds": seconds, "stored_bytes": 4096 * 11008 // 2}},
    }

    text, [goal] = report_speed.render(found)

    assert "| `int4` | 4.00 | 1.0 | 0.50 |" in text
    assert not goal.is_reached
