"""Numbers of tokens in config.json and generation_config.json."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge_on_load.recipes import merge
from merge_on_load.recipes.document import Tokenizer as Told
from merge_on_load.recipes.references import Reference
from merge_on_load.vocabulary import make_vocabulary

BASE, OTHER = Reference("base"), Reference("other")


def pair(kit, **told):
    """`</s>` is 260 in the base and 261 in the other, where `<end>` is 260."""
    return {
        BASE: kit.model("a", kit.bpe("hello", special=("</s>", "<pad>")), **told),
        OTHER: kit.model(
            "b",
            kit.bpe("hello", special=("<end>", "</s>")),
            eos_token_id=260,
            roles={"eos_token": "<end>"},
        ),
    }


def test_the_base_s_numbers_stay_in_a_union(kit):
    models = pair(kit, eos_token_id=[260, 3], pad_token_id=261, bos_token_id=260)
    vocabulary = make_vocabulary(Told(), BASE, models)

    assert vocabulary.config == {"vocab_size": 263}
    assert "generation_config.json" not in vocabulary.files


def test_with_another_model_s_tokenizer_its_numbers_come_first(kit):
    models = pair(kit, eos_token_id=260, pad_token_id=261, bos_token_id=260)
    vocabulary = make_vocabulary(Told(source=OTHER), BASE, models)

    assert vocabulary.config == {
        "vocab_size": 262,
        "bos_token_id": 261,  # the base's </s>, found by its text
        "pad_token_id": None,  # the other has no <pad>
    }
    assert json.loads(vocabulary.files["tokenizer_config.json"])["eos_token"] == "<end>"


def test_the_token_of_an_image_is_moved_under_either_name(kit):
    models = pair(kit, image_token_id=260, image_token_index=260)
    vocabulary = make_vocabulary(Told(source=OTHER), BASE, models)

    moved = {key: vocabulary.config[key] for key in ("image_token_id", "image_token_index")}
    assert moved == {"image_token_id": 261, "image_token_index": 261}


def test_generation_config_is_moved_likewise(kit):
    models = pair(kit, eos_token_id=260, pad_token_id=261)
    file = models[BASE].path / "generation_config.json"
    file.write_text('{"eos_token_id": [3, 261], "pad_token_id": 260, "temperature": 0.6}')
    models[BASE].side_files[file.name] = file
    models[OTHER].side_files.pop(file.name, None)
    models[OTHER].config.pop("eos_token_id")
    vocabulary = make_vocabulary(Told(source=OTHER), BASE, models)

    told = json.loads(vocabulary.files[file.name])
    assert told == {"eos_token_id": [3], "pad_token_id": 261, "temperature": 0.6}


def test_a_number_in_dropped_padding_is_no_token(kit):
    model = kit.model("a", kit.bpe("hello"), rows=300)
    model.config["pad_token_id"] = 280
    vocabulary = make_vocabulary(Told(source="base"), BASE, {BASE: model})

    assert vocabulary.config == {"vocab_size": 260, "pad_token_id": None}


@pytest.mark.parametrize("has_size_outside", [True, False])
def test_a_text_config_is_changed_inside(kit, has_size_outside):
    model = kit.model("a", kit.bpe("hello"), rows=300)
    model.config = {
        "text_config": {"vocab_size": 300, "eos_token_id": 280, "hidden_size": 8},
        **({"vocab_size": 300} if has_size_outside else {}),
    }
    vocabulary = make_vocabulary(Told(source="base"), BASE, {BASE: model})

    inside = {"vocab_size": 260, "eos_token_id": None}
    outside = {"vocab_size": 260} if has_size_outside else {}
    assert vocabulary.config == {"text_config": inside, **outside}


def test_the_numbers_are_of_the_model_whose_config_the_result_has(kit):
    """Which is the first that is listed: the base of a slice is not the recipe's."""
    opened = pair(kit)[OTHER].path
    config = json.loads((opened / "config.json").read_text())
    (opened / "config.json").write_text(json.dumps({**config, "eos_token_id": 261}))
    sources = [{"model": "b", "layer_range": [0, 1], "parameters": {"weight": 1}}]
    slices = [{"sources": sources, "base_model": "base"}]
    (opened.parent / "a").rename(opened.parent / "base")
    told = {"merge_method": "task_arithmetic", "slices": slices, "tokenizer_source": "union"}
    (opened.parent / "recipe.yaml").write_text(json.dumps(told))

    merge(opened.parent / "recipe.yaml", opened.parent / "out")

    number = json.loads((opened.parent / "out" / "config.json").read_text())["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(opened.parent / "out")
    assert tokenizer.convert_ids_to_tokens(number) == "</s>"


def test_a_model_without_a_config_has_none_to_change(kit):
    model = kit.model("a", kit.bpe("hello"), rows=300)
    model.config = {}

    assert make_vocabulary(Told(), BASE, {BASE: model}).config == {}


def test_a_revised_model_says_what_it_said_before(kit):
    """Written out and loaded by transformers, the base's logits of old tokens are the same."""
    models = pair(kit, eos_token_id=260)
    vocabulary = make_vocabulary(Told(pad_to_multiple_of=64), BASE, models)
    revised = vocabulary.revised(BASE, models[BASE])
    config = json.dumps({**revised.config, **vocabulary.config}).encode()
    path = kit.write("out", {**vocabulary.files, "config.json": config})
    state = {name: kit.rows_of(revised, name).bfloat16() for name in revised.names}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    before = AutoModelForCausalLM.from_pretrained(models[BASE].path)
    made = AutoModelForCausalLM.from_pretrained(path)
    ids = AutoTokenizer.from_pretrained(path)("hello</s>", return_tensors="pt").input_ids

    with torch.no_grad():
        old, new = before(ids).logits, made(ids).logits
    assert new.shape[-1] == 320
    assert torch.equal(new[..., :262], old)
    assert ids[0, -1] == 260
