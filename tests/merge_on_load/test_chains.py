"""Deltas that build on deltas: each level exact, and refused where what lies below is another."""

import dataclasses
import shutil

import pytest
import torch

from merge_on_load import (
    Checkpoint,
    Delta,
    Prepared,
    inspect,
    manifest,
    pack,
    prepare,
    prepared_size_bytes,
    repack,
    stream,
    unpack,
    verify,
)
from merge_on_load.calibration.allocation import pack_within
from merge_on_load.codecs import CODEC_NAMES
from merge_on_load.errors import (
    BadChain,
    CorruptPayload,
    MissingTensor,
    OutputExists,
    WrongBase,
)
from merge_on_load.recipes import merge
from merge_on_load.recipes.tree import family_of, to_text

UP, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


def moved(weights, names, seed, size=0.01):
    """The same, noise on some tensors."""
    random = torch.Generator().manual_seed(seed)
    changed = {
        name: (weights[name].float() + size * torch.randn(weights[name].shape, generator=random))
        for name in names
    }
    return weights | {name: weight.bfloat16() for name, weight in changed.items()}


@pytest.fixture
def models(save, base, tuned, tuned_weights):
    """Three fine-tunes, each of the one before: of all, of two matrices, of one and a norm."""
    second = moved(tuned_weights, [UP, DOWN], 5)
    third = moved(second, [UP, NORM], 6)
    return [tuned, save("second", second), save("third", third)]


def chain(tmp_path, base, models, codecs):
    parent = None
    for number, (model, codec) in enumerate(zip(models, codecs, strict=True)):
        out = tmp_path / f"{number}.delta"
        parent = pack(base, model, codec, out, parent=parent and parent.path)
    return parent


def weights_of(base, delta):
    return dict(stream(Checkpoint.open(base), Delta.open(delta.path)))


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


def test_a_chain_of_lossless_deltas_gives_the_last_model(tmp_path, base, models):
    last = chain(tmp_path, base, models, ["lossless"] * 3)

    unpack(base, last.path, tmp_path / "out")

    assert [one.path.name for one in last.chain] == ["0.delta", "1.delta", "2.delta"]
    out = Checkpoint.open(tmp_path / "out")
    assert out.fingerprint() == Checkpoint.open(models[2]).fingerprint()
    assert out.fingerprint() == verify(base, last.path).fingerprint
    codecs = {name: entry.codec for name, entry in last.manifest.tensors.items()}
    assert [name for name, codec in codecs.items() if codec != "same"] == [NORM, UP]


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("below", ["lossless", "int8", "onebit", "lowrank"])
def test_each_level_is_the_difference_from_what_lies_below(tmp_path, base, models, below, codec):
    parent = pack(base, models[0], below, tmp_path / "parent.delta")
    child = pack(base, models[1], codec, tmp_path / "child.delta", parent=parent.path)
    unpack(base, parent.path, tmp_path / "between")
    alone = pack(tmp_path / "between", models[1], codec, tmp_path / "alone.delta")

    found = weights_of(base, child)

    assert same(found, weights_of(tmp_path / "between", alone))
    assert child.measured == alone.measured
    assert verify(base, child.path).fingerprint == child.manifest.rebuilt_fingerprint


@pytest.mark.parametrize("codecs", [("onebit", "lossless", "int4"), ("int8", "sparse", "onebit")])
def test_a_prepared_chain_writes_what_streaming_gives(tmp_path, base, models, codecs):
    last, checkpoint = chain(tmp_path, base, models, codecs), Checkpoint.open(base)

    prepare(checkpoint, last, tmp_path / "prepared")
    prepared = Prepared.open(tmp_path / "prepared")

    size_bytes = (tmp_path / "prepared").stat().st_size
    assert prepared.size_bytes == prepared_size_bytes(last) == size_bytes
    for name, expected in stream(checkpoint, last):
        out = torch.full(expected.shape, 7, dtype=expected.dtype)
        prepared.write(name, checkpoint.read(name), out)
        assert torch.equal(out, expected), name


def test_what_one_delta_alone_changes_is_prepared_as_that_one_stores_it(tmp_path, save):
    weights = {name: torch.randn(64, 512).bfloat16() for name in ("a.weight", "b.weight")}
    base = save("base", weights)
    first = weights | {"a.weight": weights["a.weight"] * 1.01}
    parent = pack(base, save("first", first), "onebit", tmp_path / "p.delta")
    made = weights_of(base, parent)
    beside = save("beside", made | {"b.weight": made["b.weight"] * 1.01})
    above = save("above", made | {"a.weight": made["a.weight"] * 1.01})

    child, other = (
        pack(base, model, "onebit", tmp_path / f"{model.name}.delta", parent=parent.path)
        for model in (beside, above)
    )

    signs_and_scales, whole = 64 * (512 // 8 + 4), 2 * 64 * 512
    assert 2 * signs_and_scales < prepared_size_bytes(child) < 2 * signs_and_scales + 1000
    assert whole < prepared_size_bytes(other) < whole + 1000


def test_a_chain_lies_anywhere_as_long_as_it_lies_together(tmp_path, base, models):
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    expected = weights_of(base, last)
    (tmp_path / "fleet").mkdir()
    for name in ("0.delta", "1.delta"):
        shutil.move(tmp_path / name, tmp_path / "fleet" / name)
    (tmp_path / "link.delta").symlink_to(tmp_path / "fleet" / "1.delta")

    assert Delta.open(tmp_path / "fleet" / "1.delta").manifest.parent.path == "../0.delta"
    assert same(weights_of(base, Delta.open(tmp_path / "link.delta")), expected)


def test_another_parent_is_refused_and_both_are_named(tmp_path, base, models):
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    other = pack(base, models[2], "lossless", tmp_path / "0.delta", overwrite=True)

    with pytest.raises(WrongBase, match=r"1\.delta builds on another.*0\.delta") as caught:
        Delta.open(last.path)
    assert caught.value.found == other.manifest.rebuilt_fingerprint
    assert caught.value.expected == last.manifest.parent.fingerprint


def test_a_parent_may_be_stored_otherwise_if_it_makes_the_same(tmp_path, base, models):
    last = chain(tmp_path, base, models[:2], ["onebit", "lossless"])
    expected = weights_of(base, last)
    repack(base, tmp_path / "0.delta", "lossless", tmp_path / "again.delta")
    shutil.rmtree(tmp_path / "0.delta")
    (tmp_path / "again.delta").rename(tmp_path / "0.delta")

    assert same(weights_of(base, last), expected)


def test_a_parent_of_another_base_is_refused(tmp_path, save, base, models, base_weights):
    other = save("other", base_weights | {NORM: torch.zeros(24).bfloat16()})
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    pack(other, models[0], "lossless", tmp_path / "0.delta", overwrite=True)

    with pytest.raises(WrongBase, match="builds on another"):
        Delta.open(last.path)
    with pytest.raises(WrongBase, match="belongs to base"):
        pack(base, models[1], "lossless", tmp_path / "n.delta", parent=tmp_path / "0.delta")
    assert not (tmp_path / "n.delta").exists()


def test_a_parent_that_is_a_loop_of_links_is_refused(tmp_path, base, models):
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    shutil.rmtree(tmp_path / "0.delta")
    (tmp_path / "0.delta").symlink_to(tmp_path / "0.delta")

    with pytest.raises(BadChain, match="not here"):
        Delta.open(last.path)


def test_a_missing_parent_is_refused_and_both_are_named(tmp_path, base, models):
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    shutil.rmtree(tmp_path / "0.delta")

    for refused in (Delta.open, inspect):
        with pytest.raises(BadChain, match=r"1\.delta builds on one that is not here.*0\.delta"):
            refused(last.path)
    with pytest.raises(BadChain):
        unpack(base, last.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert to_text(family_of(last.path)).splitlines() == [
        "1.delta  (delta; lossless)",
        "└─ 0.delta  (base; delta, not here)",
        "   └─ base  (checkpoint)",
    ]


def test_a_corrupt_parent_is_found_and_named(tmp_path, base, models, flip):
    last = chain(tmp_path, base, models[:2], ["lossless", "onebit"])
    flip(tmp_path / "0.delta" / "payload-00001.safetensors", -1)

    for refused in (
        lambda: stream(Checkpoint.open(base), last),
        lambda: verify(base, last.path),
        lambda: prepare(Checkpoint.open(base), last, tmp_path / "prepared"),
        lambda: pack(base, models[2], "int8", tmp_path / "2.delta", parent=last.path),
    ):
        with pytest.raises(CorruptPayload, match=r"0\.delta/payload-00001"):
            refused()
    told = inspect(last.path)
    assert told["valid"] is False
    assert "0.delta" in told["problem"]


def test_a_chain_has_at_most_four_deltas(tmp_path, base, models):
    last = chain(tmp_path, base, [*models, models[0]], ["lossless"] * 4)
    assert len(last.chain) == 4

    with pytest.raises(BadChain, match=r"too many.*expected: 4"):
        pack(base, models[1], "lossless", tmp_path / "4.delta", parent=last.path)
    assert not (tmp_path / "4.delta").exists()

    flat = repack(base, last.path, "lossless", tmp_path / "flat.delta", flatten=True)
    assert flat.parent is None
    assert same(weights_of(base, flat), weights_of(base, last))
    assert len(pack(base, models[1], "int8", tmp_path / "5.delta", parent=flat.path).chain) == 2
    # Below what is deep enough, another is put.
    shutil.rmtree(tmp_path / "0.delta")
    pack(base, models[0], "lossless", tmp_path / "0.delta", parent=flat.path)
    with pytest.raises(BadChain, match="too many"):
        Delta.open(last.path)


def test_a_chain_that_leads_back_to_itself_is_refused(tmp_path, base, models):
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    first = tmp_path / "0.delta"
    with pytest.raises(OutputExists, match="its own input"):
        pack(base, models[0], "lossless", first, parent=last.path, overwrite=True)
    pack(base, models[0], "lossless", tmp_path / "x.delta", parent=last.path)
    shutil.rmtree(first)
    (tmp_path / "x.delta").rename(first)

    for path in (first, last.path):
        with pytest.raises(BadChain, match="builds on itself"):
            Delta.open(path)
    assert len(to_text(family_of(first)).splitlines()) == 5


@pytest.mark.parametrize("place", ["", "/tmp/0.delta", "../0\0.delta"])
def test_a_parent_lies_relative_to_its_delta(tmp_path, base, models, place):
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    parent = dataclasses.replace(last.manifest.parent, path=place)
    content = manifest.render(dataclasses.replace(last.manifest, parent=parent))[0]
    (last.path / "delta.json").write_bytes(content)

    with pytest.raises(CorruptPayload, match="relative to its delta"):
        Delta.open(last.path)


def test_repacking_keeps_the_parent(tmp_path, base, models):
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    (tmp_path / "elsewhere").mkdir()

    again = repack(base, last.path, "int8", tmp_path / "elsewhere" / "again.delta")

    assert again.manifest.parent.path == "../../0.delta"
    direct = pack(base, models[1], "int8", tmp_path / "d.delta", parent=tmp_path / "0.delta")
    assert same(weights_of(base, again), weights_of(base, direct))


def test_side_files_of_each_level_are_those_of_its_model(tmp_path, base, models):
    for path in (base, *models):
        (path / "tokenizer.json").write_text("shared by all")
    for path in models[:2]:
        (path / "chat_template.jinja").write_text("of the first two")
    (models[2] / "config.json").write_text('{"of": "the last"}')

    last = chain(tmp_path, base, models, ["lossless"] * 3)
    unpack(base, last.path, tmp_path / "out")
    unpack(base, tmp_path / "1.delta", tmp_path / "between")

    kept = [sorted(one.side_files) for one in last.chain]
    assert kept == [["chat_template.jinja"], [], ["config.json"]]
    for written, model in (("out", models[2]), ("between", models[1])):
        found = {path.name: path.read_text() for path in (tmp_path / written).glob("*.j*on*")}
        found.pop("model.safetensors.index.json", None)
        assert found == {path.name: path.read_text() for path in model.glob("*.j*on*")}


def test_inspect_and_tree_tell_the_whole_chain(tmp_path, base, models):
    last = chain(tmp_path, base, models, ["lossless", "int8", "onebit"])

    told = inspect(last.path)

    assert told["builds_on"] == [str(tmp_path / "1.delta"), str(tmp_path / "0.delta")]
    assert told["base"]["fingerprint"] == inspect(base)["fingerprint"]
    assert to_text(family_of(last.path)).splitlines() == [
        "2.delta  (delta; onebit)",
        "└─ 1.delta  (base; delta; int8)",
        "   └─ 0.delta  (base; delta; lossless)",
        "      └─ base  (base; checkpoint)",
    ]


def test_a_recipe_merges_a_chain(tmp_path, base, models):
    last = chain(tmp_path, base, models[:2], ["lossless", "lossless"])
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\n"
        "models: [{model: 1.delta, parameters: {weight: 1.0}}]\n"
    )

    merge(tmp_path / "recipe.yaml", tmp_path / "merged")

    found, expected = Checkpoint.open(tmp_path / "merged"), weights_of(base, last)
    for name, weight in expected.items():
        assert torch.allclose(found.read(name).float(), weight.float(), rtol=1e-2, atol=1e-4)


def test_a_budget_is_spent_on_the_difference_from_the_parent(tmp_path, base, models):
    parent = pack(base, models[0], "lossless", tmp_path / "p.delta")

    child = pack_within(
        base, models[1], tmp_path / "c.delta", budget_bytes=4000, parent=parent.path
    )

    changed = {name for name, one in child.manifest.tensors.items() if one.codec != "same"}
    assert changed == {UP, DOWN}
    assert verify(base, child.path).fingerprint == child.manifest.rebuilt_fingerprint


def test_other_tensors_than_the_parents_are_refused(tmp_path, save, base, models, base_weights):
    parent = pack(base, models[0], "lossless", tmp_path / "p.delta")
    fewer = save("fewer", {name: weight for name, weight in base_weights.items() if name != NORM})

    with pytest.raises(MissingTensor, match="layernorm"):
        pack(base, fewer, "lossless", tmp_path / "c.delta", parent=parent.path)
