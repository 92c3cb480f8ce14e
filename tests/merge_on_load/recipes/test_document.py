"""A recipe's text: mergekit's form, and refusals that name what is wrong."""

import pytest

from merge_on_load.errors import BadRecipe
from merge_on_load.recipes.reading import read_recipes
from merge_on_load.recipes.references import Reference

# After mergekit's examples/ties.yml, gradient-slerp.yml and orcamini-platy-44layer.yml.
TIES = """
models:
  - model: org/one
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: org/two@main+org/adapter
    parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
  - model: {model: {path: three, revision: v1}, lora: four}
    parameters:
      weight: [{filter: mlp, value: 0.5}, {value: 0}]
merge_method: ties
base_model: base
parameters: {normalize: true, int8_mask: true}
dtype: float16
"""
STACK = """
slices:
  - sources:
    - {model: one, layer_range: [0, 24]}
  - sources:
    - {model: two, layer_range: [20, 40]}
merge_method: passthrough
"""


def read(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return read_recipes(file)


def test_models_with_parameters_of_every_form(tmp_path):
    [recipe] = read(tmp_path, TIES)

    assert recipe.merge_method == "ties"
    assert recipe.references == (
        Reference("base"),
        Reference("org/one"),
        Reference("org/two", "main", "org/adapter"),
        Reference("three", "v1", "four"),
    )
    assert recipe.models[0].parameters == {"density": [1, 0.7, 0.1], "weight": 1.0}
    assert recipe.parameters == {"normalize": True, "int8_mask": True}
    assert recipe.dtype == "float16"


def test_slices_of_layers(tmp_path):
    [recipe] = read(tmp_path, STACK)

    assert [one.sources[0].layer_range for one in recipe.slices] == [(0, 24), (20, 40)]
    assert recipe.references == (Reference("one"), Reference("two"))


def test_several_documents(tmp_path):
    found = read(tmp_path, f"name: stacked\n{STACK}\n---\n{TIES}")

    assert [one.name for one in found] == ["stacked", None]


def test_a_directory_may_have_a_plus_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c++").mkdir()

    assert Reference.parse("c++") == Reference("c++")
    assert str(Reference.parse("a@1+b@2")) == "a@1+b@2"


def test_the_digest_is_of_the_meaning(tmp_path):
    [first] = read(tmp_path, "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]")
    [same] = read(tmp_path, "models:\n- parameters: {weight: 1}\n  model: a\nmerge_method: linear")
    [other] = read(tmp_path, "merge_method: linear\nmodels: [{model: a, parameters: {weight: 2}}]")

    assert first.digest() == same.digest() != other.digest()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("merge_method: [", "not YAML"),
        ("- 1", "a recipe is a mapping"),
        ("", "no recipe"),
        ("merge_method: linear", "either models or slices"),
        (f"{TIES}\nslices: []", "slices"),
        (f"{TIES}\ndtpye: float16", "dtpye"),
        (TIES.replace("float16", "float17"), "dtype"),
        (TIES.replace("weight: 1.0", "weight: much"), "weight"),
        (TIES.replace("filter: mlp", "fliter: mlp"), "fliter"),
        (TIES.replace("path: three", "pth: three"), "models.2.model"),
        (STACK.replace("[0, 24]", "[24, 24]"), "no layers"),
        (STACK.replace("[0, 24]", "[-1, 24]"), "no layers"),
        (f"{TIES}\ntokenizer_source: union\ntokenizer: {{source: base}}", "either tokenizer"),
        (f"{TIES}\n---\n{TIES}", "no name"),
        (f"name: a\n{TIES}\n---\nname: a\n{STACK}", "one name"),
    ],
)
def test_refusals_name_what_is_wrong(tmp_path, text, told):
    with pytest.raises(BadRecipe) as caught:
        read(tmp_path, text)

    assert told in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadRecipe, match="No such file"):
        read_recipes(tmp_path / "none.yaml")
