"""Pictures change only when figures do, and show what they should."""

import copy

from benchmarks.routing.plots import draw_curves, draw_reliability

FLEET = {
    "fleet": {"means": {"big": 0.9, "small": 0.6}, "costs_usd": {"big": 0.01, "small": 0.001}},
    "estimators": {"ridge": {"curve": [[0.001, 0.004, 0.01], [0.6, 0.8, 0.9]]}},
}
BINS = [[0.0, 0.5, 10, 0.4, 0.3], [0.5, 1.0, 30, 0.9, 0.95]]


def test_the_same_figures_give_the_same_bytes(tmp_path):
    for name in ("one.svg", "two.svg"):
        draw_curves({"two models": FLEET}, tmp_path / name)

    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_other_figures_give_other_bytes(tmp_path):
    other = copy.deepcopy(FLEET)
    other["fleet"]["means"]["small"] = 0.65
    for name, fleet in (("one.svg", FLEET), ("two.svg", other)):
        draw_curves({"two models": fleet}, tmp_path / name)

    assert (tmp_path / "one.svg").read_bytes() != (tmp_path / "two.svg").read_bytes()


def test_a_curve_is_beside_the_single_models(tmp_path):
    draw_curves({"two models": FLEET}, tmp_path / "curve.svg")

    told = (tmp_path / "curve.svg").read_text()
    for word in ("two models", "ridge", ">big<", ">small<", "USD"):
        assert word in told


def test_reliability_has_a_line_of_each_router(tmp_path):
    draw_reliability({"held out": {"ours": BINS, "theirs": BINS}}, tmp_path / "reliability.svg")

    told = (tmp_path / "reliability.svg").read_text()
    for word in ("held out", "ours", "theirs"):
        assert word in told
