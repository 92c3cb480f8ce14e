"""Tensors of tokens by the names that architectures give them, and their tokenizers' classes."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from merge_on_load.errors import MissingTensor
from merge_on_load.recipes.document import Tokenizer as Told
from merge_on_load.recipes.references import Reference
from merge_on_load.specs import TensorSpec
from merge_on_load.vocabulary import make_vocabulary
from merge_on_load.vocabulary.names import counterpart, token_tensors

BASE, OTHER = Reference("base"), Reference("other")


class Named:
    """A source's names and shapes."""

    path = "somewhere"

    def __init__(self, **shapes):
        self.shapes = {name.replace("__", "."): shape for name, shape in shapes.items()}
        self.names = list(self.shapes)

    def spec(self, name):
        return TensorSpec("F32", self.shapes[name])


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (
            {
                "gpt_neox__embed_in__weight": (50, 4),
                "gpt_neox__layers__0__attention__dense__weight": (4, 4),
                "embed_out__weight": (50, 4),
            },
            ["gpt_neox.embed_in.weight", "embed_out.weight"],
        ),
        (
            {"transformer__wte__weight": (50, 4), "transformer__wpe__weight": (50, 4)},
            ["transformer.wte.weight"],
        ),
        (
            {
                "transformer__wte__weight": (50, 4),
                "lm_head__weight": (50, 4),
                "lm_head__bias": (50,),
                "transformer__ln_f__bias": (50,),
            },
            ["transformer.wte.weight", "lm_head.weight", "lm_head.bias"],
        ),
        (
            {
                "shared__weight": (50, 4),
                "encoder__embed_tokens__weight": (50, 4),
                "lm_head__weight": (50, 4),
            },
            ["shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"],
        ),
        (
            {
                "distilbert__embeddings__word_embeddings__weight": (50, 4),
                "distilbert__embeddings__position_embeddings__weight": (50, 4),
                "vocab_transform__weight": (4, 4),
                "vocab_projector__weight": (50, 4),
                "vocab_projector__bias": (50,),
            },
            [
                "distilbert.embeddings.word_embeddings.weight",
                "vocab_projector.weight",
                "vocab_projector.bias",
            ],
        ),
        (
            {
                "transformer__embedding__word_embeddings__weight": (50, 4),
                "transformer__output_layer__weight": (50, 4),
            },
            ["transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight"],
        ),
        (  # a head of two classes
            {"model__embed_tokens__weight": (50, 4), "output__weight": (2, 4)},
            ["model.embed_tokens.weight"],
        ),
        (  # a head without the embeddings' padding
            {"model__embed_tokens__weight": (56, 4), "lm_head__weight": (50, 4)},
            ["model.embed_tokens.weight", "lm_head.weight"],
        ),
    ],
)
def test_tensors_of_tokens_are_known_by_name_and_rows(shapes, expected):
    assert token_tensors(Named(**shapes)) == expected


def test_a_model_lends_what_it_calls_otherwise():
    neox = Named(gpt_neox__embed_in__weight=(50, 4), embed_out__weight=(50, 4))
    tied = Named(model__embed_tokens__weight=(50, 4))

    assert counterpart(neox, "model.embed_tokens.weight") == "gpt_neox.embed_in.weight"
    assert counterpart(neox, "lm_head.weight") == "embed_out.weight"
    assert counterpart(tied, "lm_head.weight") == "model.embed_tokens.weight"
    assert counterpart(tied, "lm_head.bias") is None


def test_a_model_without_token_embeddings_is_refused():
    with pytest.raises(MissingTensor, match="no token embeddings"):
        token_tensors(Named(conv__weight=(3, 3)))


def bert(kit, name, tokenizer):
    """A masked language model: its head is its embeddings and has a bias of its own."""
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        pad_token_id=None,
    )
    model = BertForMaskedLM(config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    path = kit.write(name, {})
    model.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    return kit.open(path)


def test_an_encoder_s_embeddings_and_bias_are_rearranged(kit):
    first, second = kit.wordpiece("hello"), kit.wordpiece("world", special=("[X]",))
    models = {BASE: bert(kit, "a", first), OTHER: bert(kit, "b", second)}
    vocabulary = make_vocabulary(Told(), BASE, models)
    revised = vocabulary.revised(OTHER, models[OTHER])
    words, bias = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"

    assert vocabulary.size == 56
    changed = [name for name in revised.names if revised.spec(name) != models[OTHER].spec(name)]
    assert {words, bias} <= set(changed)
    assert all(revised.spec(name).shape[0] == 56 for name in changed)
    for name in (words, bias):
        before, after = kit.rows_of(models[OTHER], name), kit.rows_of(revised, name)
        base = kit.rows_of(models[BASE], name)
        assert torch.equal(after[:53], before[:53])
        assert torch.equal(after[53], base[53])  # hello
        assert torch.equal(after[54:], before[53:])  # world, [X]


@pytest.mark.parametrize(
    ("kind", "tokenizer_class", "special"),
    [
        ("bpe", "GPT2Tokenizer", ("<|endoftext|>",)),
        ("bpe", "Qwen2Tokenizer", ("<|endoftext|>",)),
        ("wordpiece", "BertTokenizer", ("[CLS]", "[SEP]", "[PAD]", "[MASK]")),
        ("unigram", "LlamaTokenizer", ("<s>", "</s>")),
    ],
)
def test_classes_that_rebuild_their_tokenizer_give_the_same_numbers(
    kit, change, kind, tokenizer_class, special
):
    make = getattr(kit, kind)
    base = kit.model("a", make("hello", special=special, added=("<tool>",)))
    other = kit.model("b", make("world", "hello", special=("<|im_end|>",)))
    change(
        base.side_files["tokenizer_config.json"],
        lambda told: told.update(tokenizer_class=tokenizer_class),
    )
    vocabulary = make_vocabulary(Told(), BASE, {BASE: base, OTHER: other})
    loaded = AutoTokenizer.from_pretrained(kit.write("out", vocabulary.files, beside=base))

    told = Tokenizer.from_str(vocabulary.files["tokenizer.json"].decode())
    assert type(loaded).__name__ == tokenizer_class
    assert loaded.get_vocab() == told.get_vocab()


def test_models_of_one_tokenizer_read_it_once(kit, monkeypatch):
    from merge_on_load.vocabulary import vocabulary as module

    read = []
    monkeypatch.setattr(
        module,
        "read_tokenizer",
        lambda source, actual=module.read_tokenizer: read.append(source.path) or actual(source),
    )
    models = {Reference(name): kit.model(name, kit.bpe("hello")) for name in "abc"}
    made = make_vocabulary(Told(), None, models)

    assert len(read) == 1
    assert np.array_equal(made.rows.own, np.tile(np.arange(260), (3, 1)))
    assert json.loads(made.files["tokenizer.json"])["model"]["type"] == "BPE"
