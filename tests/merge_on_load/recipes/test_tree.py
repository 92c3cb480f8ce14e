"""Every result tells its family, down to what was trained."""

from xml.etree import ElementTree

import pytest
import torch
import yaml

from merge_on_load import pack
from merge_on_load.errors import NotACheckpoint
from merge_on_load.recipes import merge
from merge_on_load.recipes.tree import family_of, to_svg, to_text

WEIGHTS = {"model.layers.0.w.weight": torch.ones(4, 4), "model.norm.weight": torch.ones(4)}
FIRST = {
    "name": "mixed",
    "merge_method": "linear",
    "models": [{"model": name, "parameters": {"weight": w}} for name, w in (("a", 1), ("b", 2))],
}
LAST = {
    "merge_method": "task_arithmetic",
    "base_model": "base",
    "models": [
        {
            "model": "mixed",
            "parameters": {"weight": [{"filter": "w", "value": [0, 1]}, {"value": 1}]},
        },
        {"model": "c.delta", "parameters": {"weight": 0.5}},
    ],
}
TREE = """\
merged  (task_arithmetic, seed 7)
├─ base  (base; checkpoint)
├─ mixed  (weight {w: [0, 1], others: 1}; linear, seed 7)
│  ├─ a  (weight 1; checkpoint)
│  └─ b  (weight 2; checkpoint)
└─ c.delta  (weight 0.5; delta; lossless)
   └─ base  (base; checkpoint)"""


@pytest.fixture
def family(tmp_path, save):
    """A merge of a merge and a delta."""
    for i, name in enumerate(("base", "a", "b", "c")):
        save(name, {tensor: weights + i for tensor, weights in WEIGHTS.items()})
    pack(tmp_path / "base", tmp_path / "c", "lossless", tmp_path / "c.delta")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump_all([FIRST, LAST]))
    merge(file, tmp_path / "merged", seed=7)
    return tmp_path


def test_a_merged_model_tells_its_family(family):
    assert to_text(family_of(family / "merged")) == TREE


def test_the_family_goes_on_through_what_was_written(family):
    recipe = {"merge_method": "passthrough", "models": [{"model": "merged"}]}
    (family / "next.yaml").write_text(yaml.safe_dump(recipe))
    merge(family / "next.yaml", family / "next")

    told = to_text(family_of(family / "next")).splitlines()

    assert told[0] == "next  (passthrough, seed 0)"
    assert told[1] == "└─ merged  (task_arithmetic, seed 7)"
    assert [line[3:] for line in told[2:]] == TREE.splitlines()[1:]


def test_a_recipe_tells_what_it_will_make(family):
    lines = to_text(family_of(family / "recipe.yaml")).splitlines()

    assert lines[0] == "recipe.yaml  (task_arithmetic, seed 0)"
    assert len(lines) == 7


def test_a_delta_and_a_plain_model_have_families_too(family):
    assert to_text(family_of(family / "c.delta")).splitlines() == [
        "c.delta  (delta; lossless)",
        "└─ base  (base; checkpoint)",
    ]
    assert to_text(family_of(family / "a")) == "a  (checkpoint)"


def test_the_picture_has_every_member(family):
    picture = ElementTree.fromstring(to_svg(family_of(family / "merged")))

    texts = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[::2] == ["merged", "base", "mixed", "a", "b", "c.delta", "base"]
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}path"))) == 6


def test_a_directory_of_nothing_has_no_family(tmp_path):
    with pytest.raises(NotACheckpoint):
        family_of(tmp_path)
