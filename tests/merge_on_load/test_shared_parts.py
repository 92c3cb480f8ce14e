"""What a delta shares with its base, or twice with itself, is stored once or not at all."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from merge_on_load import (
    Checkpoint,
    Delta,
    Prepared,
    manifest,
    pack,
    prepare,
    repack,
    stream,
    unpack,
    verify,
)
from merge_on_load.calibration.allocation import pack_within
from merge_on_load.codecs import CODEC_NAMES
from merge_on_load.errors import CorruptPayload, MissingTensor

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def twice(save, base_weights, tuned_weights):
    """A base and a fine-tune of it that store their tied weight under both names."""
    return [
        save(name, weights | {HEAD: weights[EMBEDDING].clone()})
        for name, weights in (("base2", base_weights), ("tuned2", tuned_weights))
    ]


def payload_bytes(delta):
    return sum(stored.size_bytes for stored in delta.manifest.payloads.values())


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_tied_weight_that_is_stored_twice_is_packed_once(tmp_path, base, tuned, twice, codec):
    once = pack(base, tuned, codec, tmp_path / "once.delta")
    delta = pack(*twice, codec, tmp_path / "twice.delta")

    assert abs(payload_bytes(delta) - payload_bytes(once)) < 200  # a name's room in the header
    found = dict(stream(Checkpoint.open(twice[0]), delta))
    assert torch.equal(found[HEAD], found[EMBEDDING])
    assert torch.equal(found[EMBEDDING], dict(stream(Checkpoint.open(base), once))[EMBEDDING])
    assert verify(twice[0], delta.path).tensor_count == len(found)
    again = repack(twice[0], delta.path, "lossless", tmp_path / "again.delta")
    again_found = dict(stream(Checkpoint.open(twice[0]), again))
    assert all(torch.equal(again_found[name], one) for name, one in found.items())
    for packed in (delta, again):
        shared = {packed.entry(name).stored_as for name in (HEAD, EMBEDDING)}
        assert shared in ({None, HEAD}, {None, EMBEDDING})


def test_a_tied_weight_is_prepared_under_both_names(tmp_path, twice):
    delta, checkpoint = pack(*twice, "int4", tmp_path / "t.delta"), Checkpoint.open(twice[0])
    prepare(checkpoint, delta, tmp_path / "prepared")
    prepared = Prepared.open(tmp_path / "prepared")

    for name, expected in stream(checkpoint, delta):
        out = torch.empty_like(expected)
        prepared.write(name, checkpoint.read(name), out)
        assert torch.equal(out, expected)


def test_copies_stay_copies_where_each_tensor_has_a_codec_of_its_own(tmp_path, twice):
    delta = pack_within(*twice, tmp_path / "t.delta", budget_bytes=2_400)

    found = dict(stream(Checkpoint.open(twice[0]), delta))

    assert torch.equal(found[HEAD], found[EMBEDDING])
    assert delta.entry(HEAD).settings == delta.entry(EMBEDDING).settings


class Listening:
    """What `pack` tells a judge."""

    def __init__(self):
        self.learning, self.taken = set(), {}

    def distilled(self, tensors):
        self.learning = set(tensors)
        return {}

    def take(self, name, rebuilt):
        self.taken[name] = rebuilt

    def measured(self):
        return {}


def test_copies_learn_as_one_and_are_judged_as_two(tmp_path, twice):
    judge = Listening()

    delta = pack(*twice, "int4", tmp_path / "t.delta", judge=judge)

    assert len(judge.learning & {HEAD, EMBEDDING}) == 1
    found = dict(stream(Checkpoint.open(twice[0]), delta))
    assert all(torch.equal(judge.taken[name], found[name]) for name in (HEAD, EMBEDDING))


def test_copies_that_parted_are_stored_each(tmp_path, save, base_weights, tuned_weights, twice):
    parted = save("parted", tuned_weights | {HEAD: tuned_weights[EMBEDDING] * 1.5})

    delta = pack(twice[0], parted, "lossless", tmp_path / "t.delta")

    assert {one.stored_as for one in delta.manifest.tensors.values()} == {None}
    unpack(twice[0], delta.path, tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").fingerprint() == Checkpoint.open(parted).fingerprint()


@pytest.mark.parametrize("name", ["nobody.weight", "model.norm.weight"])
def test_a_copy_of_what_is_not_stored_is_refused(tmp_path, twice, name):
    delta = pack(*twice, "int8", tmp_path / "t.delta")
    tensors = dict(delta.manifest.tensors)
    first = min(tensors[HEAD].stored_as or HEAD, tensors[EMBEDDING].stored_as or EMBEDDING)
    copy = HEAD if first == EMBEDDING else EMBEDDING
    tensors[copy] = dataclasses.replace(tensors[copy], stored_as=name)
    content = manifest.render(dataclasses.replace(delta.manifest, tensors=tensors))[0]
    (delta.path / "delta.json").write_bytes(content)

    with pytest.raises(CorruptPayload):
        Delta.open(delta.path).verify()


def test_a_tied_model_keeps_its_tie(tmp_path):
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    model.save_pretrained(tmp_path / "tuned")

    delta = pack(tmp_path / "base", tmp_path / "tuned", "lossless", tmp_path / "t.delta")
    unpack(tmp_path / "base", delta.path, tmp_path / "out")

    assert HEAD not in delta.manifest.tensors
    rebuilt = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert rebuilt.lm_head.weight is rebuilt.model.embed_tokens.weight
    assert torch.equal(rebuilt.lm_head.weight, model.lm_head.weight)


def test_a_head_that_only_one_of_both_stores_is_refused_by_name(tmp_path, base, tuned, twice):
    for pair in ((base, twice[1]), (twice[0], tuned)):
        with pytest.raises(MissingTensor, match=r"lm_head\.weight"):
            pack(*pair, "lossless", tmp_path / "t.delta")


def test_the_bases_tokenizer_is_not_stored_again(tmp_path, base, tuned):
    vocabulary = "shared by both\n" * 10_000
    for path in (base, tuned):
        (path / "tokenizer.json").write_text(vocabulary)
        (path / "tokenizer_config.json").write_text("{}")

    delta = pack(base, tuned, "onebit", tmp_path / "t.delta")
    unpack(base, delta.path, tmp_path / "out")

    assert not list(delta.path.rglob("tokenizer*"))
    assert delta.size_bytes < len(vocabulary)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == vocabulary
