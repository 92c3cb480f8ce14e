"""What cannot be merged is refused by name, and nothing is left behind."""

import os
import subprocess
import sys

import pytest
import torch
import yaml

from merge_on_load.errors import (
    BadRecipe,
    CorruptPayload,
    MissingTensor,
    NonFinite,
    OutputExists,
    ShapeMismatch,
    UnsupportedDtype,
)
from merge_on_load.recipes import merge

WEIGHTS = {
    "model.embed_tokens.weight": torch.ones(6, 4),
    "model.layers.0.w.weight": torch.ones(4, 4),
    "model.layers.1.w.weight": torch.ones(4, 4),
    "model.norm.weight": torch.ones(4),
}
LINEAR = {
    "merge_method": "linear",
    "models": [
        {"model": "a", "parameters": {"weight": 1}},
        {"model": "b", "parameters": {"weight": 1}},
    ],
}
TASK = {**LINEAR, "merge_method": "task_arithmetic", "base_model": "base"}


@pytest.fixture
def refused(tmp_path, save):
    """refused(document, error, b=..., **options) merges a, b and base; gives the refusal's text."""

    def attempt(document, error, b=None, documents=(), **options):
        for name, weights in (("a", WEIGHTS), ("b", b or WEIGHTS), ("base", WEIGHTS)):
            if not (tmp_path / name).exists():
                save(name, weights)
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump_all([document, *documents]))
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(error) as caught:
            merge(file, tmp_path / "out", **options)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return str(caught.value)

    return attempt


def test_another_shape(refused):
    told = refused(LINEAR, ShapeMismatch, {**WEIGHTS, "model.norm.weight": torch.ones(5)})

    assert "model.norm.weight" in told
    assert "/b" in told
    assert "[4]" in told
    assert "[5]" in told


def test_another_vocabulary_points_to_the_tokenizer(refused):
    told = refused(
        LINEAR, ShapeMismatch, {**WEIGHTS, "model.embed_tokens.weight": torch.ones(7, 4)}
    )

    assert "tokenizer" in told


@pytest.mark.parametrize("lost", ["model.layers.1.w.weight", "model.norm.weight"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_tensor_that_one_model_lacks(refused, lost, is_first):
    fewer = {name: tensor for name, tensor in WEIGHTS.items() if name != lost}
    extra = {**fewer, lost.replace("weight", "other"): torch.ones(4)}
    document = {**LINEAR, "models": LINEAR["models"][:: -1 if is_first else 1]}

    assert lost.split(".")[-2] in refused(document, MissingTensor, extra)


def test_another_number_of_layers(refused):
    fewer = {name: tensor for name, tensor in WEIGHTS.items() if "layers.1" not in name}

    assert "layers" in refused(LINEAR, BadRecipe, fewer)


def test_a_dtype_that_cannot_be_merged(refused):
    told = refused(
        LINEAR, UnsupportedDtype, {**WEIGHTS, "model.norm.weight": torch.ones(4).double()}
    )

    assert "F64" in told
    assert "model.norm.weight" in told


def test_whole_numbers_that_differ(tmp_path, save, refused):
    save("a", {**WEIGHTS, "ids": torch.arange(3)})

    assert "ids" in refused(LINEAR, ShapeMismatch, {**WEIGHTS, "ids": torch.ones(3).long()})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity(refused, tmp_path, bad):
    broken = {**WEIGHTS, "model.norm.weight": torch.tensor([1, 1, bad, 1])}

    told = refused(LINEAR, NonFinite, broken)

    assert "model.norm.weight" in told
    assert "/b" in told
    merge(tmp_path / "recipe.yaml", tmp_path / "out", allow_nan=True)


def test_a_truncated_shard(refused, tmp_path, save):
    file = save("b", WEIGHTS) / "model.safetensors"
    os.truncate(file, file.stat().st_size - 10)

    assert str(file) in refused(LINEAR, CorruptPayload)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"merge_method": "lniear"}, "task_arithmetic"),
        ({"parameters": {"wieght": 1}}, "wieght"),
        ({"parameters": {"density": 1}}, "density"),
        ({"models": [{"model": "a", "parameters": {"normalize": True}}]}, "normalize"),
        ({"models": [{"model": "a"}, {"model": "b"}]}, "weight"),
        ({"parameters": {"normalize": 0.5}}, "normalize"),
        ({"models": [{"model": "a", "parameters": {"weight": True}}]}, "weight"),
        ({"merge_method": "task_arithmetic"}, "base_model"),
        ({"merge_method": "slerp", "base_model": "base", "parameters": {"t": 0.5}}, "weight"),
        ({"models": [{"model": "nowhere", "parameters": {"weight": 1}}]}, "nowhere"),
        ({"models": [{"model": "a", "parameters": {"weight": 0}}]}, "weight"),
    ],
)
def test_a_recipe_that_does_not_hold_together(refused, change, told):
    assert told in refused({**LINEAR, **change}, BadRecipe)


def test_too_many_models_for_the_method(refused):
    models = [{"model": name} for name in ("a", "b")]
    document = {"merge_method": "slerp", "base_model": "base", "models": models}

    told = refused({**document, "parameters": {"t": 0.5}}, BadRecipe)

    assert "slerp" in told
    assert "found: 2" in told


def test_a_density_outside_its_range(refused):
    models = [{"model": "a", "parameters": {"weight": 1, "density": 1.5}}]

    told = refused({**TASK, "merge_method": "ties", "models": models}, BadRecipe)

    assert "density" in told
    assert "1.5" in told


def test_layers_that_are_not_there(refused):
    slices = [{"sources": [{"model": "a", "layer_range": [0, 3]}]}]

    told = refused({"merge_method": "passthrough", "slices": slices}, BadRecipe)

    assert "2 layers" in told


def test_documents_in_a_circle(refused):
    first = {**LINEAR, "name": "x", "models": [{"model": "y", "parameters": {"weight": 1}}]}
    second = {**LINEAR, "name": "y", "models": [{"model": "x", "parameters": {"weight": 1}}]}
    last = {**LINEAR, "models": [{"model": "x", "parameters": {"weight": 1}}]}

    assert "each other" in refused(first, BadRecipe, documents=[second, last])


def test_documents_that_nothing_uses(refused):
    assert "unused" in refused({**LINEAR, "name": "unused"}, BadRecipe, documents=[LINEAR])


def test_a_delta_without_a_base(refused, tmp_path):
    (tmp_path / "x.delta").mkdir()
    (tmp_path / "x.delta" / "delta.json").write_text("{}")
    models = [{"model": "x.delta", "parameters": {"weight": 1}}]

    assert "base" in refused({**LINEAR, "models": models}, BadRecipe)


def test_an_output_that_is_there_or_is_an_input(refused, tmp_path, save):
    save("a", WEIGHTS)
    save("b", WEIGHTS)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(LINEAR))

    for out in (tmp_path, tmp_path / "a"):
        with pytest.raises(OutputExists):
            merge(file, out)
        with pytest.raises(OutputExists):
            merge(file, out, overwrite=True)


LIMITED = """
import resource, sys
from pathlib import Path
from merge_on_load.errors import DiskFull
from merge_on_load.recipes import merge

resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    merge(Path(sys.argv[1]), Path(sys.argv[2]))
except DiskFull as error:
    print(error)
"""


def test_a_disk_without_room(tmp_path, save):
    save("a", WEIGHTS)
    save("b", WEIGHTS)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(LINEAR))

    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(file), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "File too large" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "recipe.yaml"]


KILLED = """
import os, signal, sys
from pathlib import Path
from merge_on_load.recipes import merge

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

merge(Path(sys.argv[1]), Path(sys.argv[2]), progress=die)
"""


def test_a_killed_merge_leaves_nothing_under_the_final_name(tmp_path, save):
    save("a", WEIGHTS)
    save("b", WEIGHTS)
    file, out = tmp_path / "recipe.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(LINEAR))

    died = subprocess.run([sys.executable, "-c", KILLED, str(file), str(out)])

    assert died.returncode == -9
    assert not out.exists()
    assert len(list(tmp_path.glob(".out.partial-*"))) == 1
    merge(file, out)
    assert out.is_dir()
