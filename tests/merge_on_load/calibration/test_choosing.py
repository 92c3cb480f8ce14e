"""The smallest delta that keeps a quality, and the best one of a size, told by weights alone."""

import pytest
import torch

from merge_on_load import Checkpoint, inspect, pack, verify
from merge_on_load.calibration.allocation import allocate, by_spectrum, pack_within
from merge_on_load.calibration.ladder import LADDER, pack_auto, quality_kept
from merge_on_load.codecs import CODEC_NAMES
from merge_on_load.errors import OutputExists, QualityMissed
from merge_on_load.spectrum import signals


@pytest.fixture
def models(save):
    """A base, and a fine-tune of it: one matrix moved much and at random, one little and evenly."""
    random = torch.Generator().manual_seed(0)
    base = {
        "model.embed_tokens.weight": torch.randn(64, 128, generator=random).bfloat16(),
        "model.layers.0.mlp.up_proj.weight": torch.randn(256, 128, generator=random).bfloat16(),
        "model.layers.0.mlp.down_proj.weight": torch.randn(128, 256, generator=random).bfloat16(),
        "model.norm.weight": torch.ones(128).bfloat16(),
    }
    tuned = {name: weight.clone() for name, weight in base.items()}
    tuned["model.layers.0.mlp.up_proj.weight"] += torch.randn(256, 128, generator=random) * 0.3
    tuned["model.layers.0.mlp.down_proj.weight"] += 0.05
    tuned["model.norm.weight"] += 0.5
    return save("base", base), save("tuned", tuned)


@pytest.mark.parametrize("floor", [0.5, 0.9, 0.99, 0.9999, 1.0])
def test_the_first_rung_that_keeps_the_floor_is_taken(tmp_path, models, floor):
    delta = pack_auto(*models, tmp_path / "auto.delta", floor=floor)

    assert quality_kept(delta.measured) >= floor
    below = [
        quality_kept(pack(*models, "auto", tmp_path / f"{n}.delta", layout=rung).measured)
        for n, rung in enumerate(LADDER)
    ]
    first = next(n for n, kept in enumerate(below) if kept >= floor)
    assert delta.measured == inspect(tmp_path / f"{first}.delta")["measured"]
    assert not list(tmp_path.glob(".*trial*"))


def test_a_floor_that_no_rung_keeps_is_refused(tmp_path, models):
    with pytest.raises(QualityMissed, match="no codec keeps"):
        pack_auto(*models, tmp_path / "auto.delta", floor=0.999, rungs=LADDER[:2])

    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned"}


def test_what_stands_there_stays_unless_told_otherwise(tmp_path, models):
    first = pack_auto(*models, tmp_path / "auto.delta", floor=0.5)

    with pytest.raises(OutputExists):
        pack_auto(*models, tmp_path / "auto.delta", floor=0.9)
    with pytest.raises(QualityMissed):
        pack_auto(*models, first.path, floor=1.0, rungs=LADDER[:1], overwrite=True)
    assert inspect(first.path)["digest"] == first.digest

    better = pack_auto(*models, first.path, floor=0.99, overwrite=True)
    assert better.size_bytes > first.size_bytes


def test_more_bytes_lose_no_more(tmp_path, models):
    errors = []
    for budget in (6_000, 12_000, 25_000, 60_000):
        delta = pack_within(*models, tmp_path / f"{budget}.delta", budget_bytes=budget)
        stored = sum(
            part.nbytes
            for name in Checkpoint.open(models[0]).names
            for part in delta.payload(name).values()
        )
        assert stored <= budget
        errors.append(delta.measured["relative_error"].get("lossy", 0.0))

    assert errors == sorted(errors, reverse=True)


def test_bytes_go_where_an_error_costs_most(models):
    opened = [Checkpoint.open(path) for path in models]
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"

    def size(name: str, weights: dict[str, float]) -> int:
        chosen = allocate(*opened, budget_bytes=20_000, sensitivities=weights)
        before, after = (one.read(name) for one in opened)
        coding = chosen.codings[name]
        from merge_on_load.codecs import make_codec

        payload = make_codec(coding.codec, coding.settings).encode(name, before, after)
        return sum(part.nbytes for part in payload.values())

    up_matters, down_matters = {up: 1.0, down: 1e-6}, {up: 1e-6, down: 1.0}
    assert size(up, up_matters) > size(up, down_matters)


def structured(rows, width, rank, random):
    """A matrix of few directions, and little noise."""
    thin = torch.randn(rows, rank, generator=random) @ torch.randn(rank, width, generator=random)
    return thin + 0.01 * torch.randn(rows, width, generator=random)


def test_bytes_go_where_a_matrix_has_signal(tmp_path, save):
    """Both changed alike; of one matrix much is signal, the other is noise."""
    random = torch.Generator().manual_seed(0)
    names = {
        "model.layers.0.mlp.up_proj.weight": structured(256, 256, 8, random),
        "model.layers.1.mlp.up_proj.weight": torch.randn(256, 256, generator=random),
        "model.embed_tokens.weight": torch.randn(64, 256, generator=random),
    }
    change = 0.05 * torch.randn(256, 256, generator=random)
    base = save("plain", names)
    model = save("moved", {name: one + change[: len(one)] for name, one in names.items()})
    signal, noise, embedding = names

    def sizes(sensitivity):
        delta = pack_within(
            *(base, model, tmp_path / f"{sensitivity}.delta"),
            budget_bytes=26_000,
            sensitivity=sensitivity,
        )
        assert delta.codec in CODEC_NAMES
        return {name: sum(part.nbytes for part in delta.payload(name).values()) for name in names}

    weights, spectrum = sizes("weights"), sizes("spectrum")
    assert spectrum[signal] > weights[signal]
    assert spectrum[noise] < weights[noise]
    assert spectrum[signal] > 2 * spectrum[noise]
    found = by_spectrum(Checkpoint.open(base), Checkpoint.open(model))
    ratios = {one.name: one.ratio for one in signals(Checkpoint.open(model))}
    assert found[signal] / found[noise] == pytest.approx(ratios[signal] / ratios[noise], rel=1e-3)
    assert found[embedding] > 0


def test_unchanged_tensors_take_nothing_of_the_budget(tmp_path, save, models):
    base = models[0]
    weights = {n: Checkpoint.open(base).read(n) for n in Checkpoint.open(base).names}
    down = "model.layers.0.mlp.down_proj.weight"
    model = save("down", weights | {down: weights[down] + 0.05})
    alone = save("alone", {down: weights[down]}), save("moved", {down: weights[down] + 0.05})
    with pytest.raises(QualityMissed) as caught:
        allocate(*map(Checkpoint.open, alone), budget_bytes=0)
    smallest = int(caught.value.found.removesuffix(" over"))

    chosen = [
        allocate(*map(Checkpoint.open, pair), budget_bytes=smallest).codings[down]
        for pair in ((base, model), alone)
    ]

    assert chosen[0] == chosen[1]


def test_prompts_need_a_judge(tmp_path, models):
    for sensitivity in ("prompts", "moon"):
        with pytest.raises(ValueError, match=sensitivity):
            pack_within(*models, tmp_path / "a.delta", budget_bytes=20_000, sensitivity=sensitivity)


def test_a_budget_below_the_smallest_is_refused(tmp_path, models):
    with pytest.raises(QualityMissed, match="below the smallest"):
        pack_within(*models, tmp_path / "a.delta", budget_bytes=100)


def test_the_ladder_builds_on_a_parent(tmp_path, models):
    parent = pack(*models, "int2", tmp_path / "parent.delta")

    delta = pack_auto(*models, tmp_path / "auto.delta", floor=0.9, parent=parent.path)

    assert delta.parent is not None
    assert delta.parent.digest == parent.digest
    assert delta.size_bytes < pack_auto(*models, tmp_path / "b.delta", floor=0.99).size_bytes
    verify(models[0], delta.path)
