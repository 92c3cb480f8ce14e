"""The result's tokenizer: which tokens it has, and what becomes of a text."""

import json

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from merge_on_load.errors import BadRecipe
from merge_on_load.recipes.document import Tokenizer as Told
from merge_on_load.recipes.references import Reference
from merge_on_load.vocabulary import make_vocabulary

BASE, OTHER, THIRD = Reference("base"), Reference("other"), Reference("third")


def union(*models, base=BASE, **told):
    names = (BASE, OTHER, THIRD)
    return make_vocabulary(Told(**told), base, dict(zip(names, models, strict=False)))


def tokenizer_of(vocabulary):
    return Tokenizer.from_str(vocabulary.files["tokenizer.json"].decode())


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_a_union_keeps_the_base_s_numbers_and_appends_what_others_have(kit, kind):
    make = getattr(kit, kind)
    first = make("hello", special=("<s>",), added=("<tool>",))
    second = make("hello", "world", special=("<s>", "<|im_end|>"))
    vocabulary = union(kit.model("a", first), kit.model("b", second))
    made = tokenizer_of(vocabulary)

    before = first.get_vocab()
    after = made.get_vocab()
    new = [text for text in sorted(after, key=after.get) if text not in before]
    theirs = second.get_vocab()
    assert {text: after[text] for text in before} == before
    assert new == [text for text in sorted(theirs, key=theirs.get) if text not in before]
    assert sorted(after.values()) == list(range(vocabulary.size))
    assert vocabulary.config == {"vocab_size": vocabulary.size}


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_texts_that_the_base_knew_keep_their_tokens_and_new_words_get_theirs(kit, kind):
    make = getattr(kit, kind)
    first = make("hello", special=("<s>",), added=("<tool>",))
    second = make("hello", "world", special=("<s>", "<|im_end|>"))
    made = tokenizer_of(union(kit.model("a", first), kit.model("b", second)))

    for text in ("hello", "<s>hello<tool>", "hello hello", "help a yellow cello"):
        assert made.encode(text).ids == first.encode(text).ids, text
        assert made.decode(made.encode(text).ids) == first.decode(first.encode(text).ids)
    assert made.encode("world").tokens == second.encode("world").tokens
    assert len(made.encode("world").ids) == 1
    assert made.encode("hello<|im_end|>").tokens[-1] == "<|im_end|>"


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
@pytest.mark.parametrize("with_decoder", [False, True])
def test_transformers_loads_the_union_with_the_same_numbers(kit, change, kind, with_decoder):
    make = getattr(kit, kind)
    first = make("hello", special=("<s>", "</s>"), added=("<tool>",))
    second = make("world", special=("<|im_end|>",))
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    base = kit.model("a", first, roles=roles)
    if with_decoder:
        decoder = {
            str(first.token_to_id(text)): {"content": text, "special": text != "<tool>"}
            for text in ("<s>", "</s>", "<tool>")
        }
        change(
            base.side_files["tokenizer_config.json"],
            lambda told: told.update(added_tokens_decoder=decoder),
        )
    vocabulary = union(base, kit.model("b", second))
    loaded = AutoTokenizer.from_pretrained(kit.write("union", vocabulary.files, beside=base))

    assert loaded.get_vocab() == tokenizer_of(vocabulary).get_vocab()
    assert len(loaded) == vocabulary.size
    assert loaded.eos_token == "</s>"
    ids = loaded("hello<|im_end|><tool>", add_special_tokens=False).input_ids
    assert ids == tokenizer_of(vocabulary).encode("hello<|im_end|><tool>").ids
    assert "<|im_end|>" not in loaded.decode(ids, skip_special_tokens=True)
    assert "<tool>" in loaded.decode(ids, skip_special_tokens=True)


def test_a_token_that_is_special_in_one_is_special_in_the_union(kit):
    first = kit.bpe("hello", "abc", added=("<tool>", "<plain>"))
    second = kit.bpe("hello", special=("<tool>", "abc"), added=("ab",))
    made = json.loads(union(kit.model("a", first), kit.model("b", second)).files["tokenizer.json"])

    flags = {one["content"]: one["special"] for one in made["added_tokens"]}
    assert flags == {"<tool>": True, "<plain>": False, "abc": True}


def test_added_tokens_keep_their_flags(kit):
    from tokenizers import AddedToken

    first, second = kit.bpe("hello"), kit.bpe("hello")
    second.add_tokens([AddedToken("<gap>", lstrip=True, single_word=True, normalized=False)])
    made = json.loads(union(kit.model("a", first), kit.model("b", second)).files["tokenizer.json"])

    (added,) = made["added_tokens"]
    assert added == {
        "id": first.get_vocab_size(),
        "content": "<gap>",
        "single_word": True,
        "lstrip": True,
        "rstrip": False,
        "normalized": False,
        "special": False,
    }


def test_merges_of_bpe_are_the_base_s_and_then_those_that_make_new_tokens(kit):
    first, second = kit.bpe("hello", "wo"), kit.bpe("world", "hell", "help")
    made = json.loads(union(kit.model("a", first), kit.model("b", second)).files["tokenizer.json"])

    def merges(tokenizer):
        return [tuple(one) for one in json.loads(tokenizer.to_str())["model"]["merges"]]

    new = [("wo", "r"), ("wor", "l"), ("worl", "d"), ("hel", "p")]
    assert [tuple(one) for one in made["model"]["merges"]] == merges(first) + new


def test_a_merge_of_tokens_that_another_has_only_as_added_ones_is_kept(kit):
    models = (
        kit.model("a", kit.bpe("abc")),
        kit.model("b", kit.bpe("abc", "worl", added=("world",))),
        kit.model("c", kit.bpe("abc", "world")),
    )
    made = tokenizer_of(union(*models))

    assert made.encode("worldly").tokens == ["world", "l", "y"]
    assert ["worl", "d"] in json.loads(made.to_str())["model"]["merges"]


def test_the_base_s_or_a_model_s_tokenizer_is_taken_as_it_is(kit):
    models = {
        BASE: kit.model("a", kit.bpe("hello", special=("<s>",))),
        OTHER: kit.model("b", kit.bpe("world", "hello", special=("<pad>",))),
    }
    for told, wanted in (("base", BASE), (OTHER, OTHER), ("base", OTHER)):
        base = wanted if told == "base" else BASE
        vocabulary = make_vocabulary(Told(source=told), base, models)
        file = models[wanted].side_files["tokenizer.json"]
        assert vocabulary.files["tokenizer.json"] == file.read_bytes()
        assert vocabulary.size == Tokenizer.from_file(str(file)).get_vocab_size()


@pytest.mark.parametrize("source", ["union", "base"])
def test_without_a_base_the_first_model_s_numbers_are_kept(kit, source):
    first, second = kit.bpe("hello", "abc"), kit.bpe("world")
    vocabulary = union(kit.model("a", first), kit.model("b", second), base=None, source=source)
    after = tokenizer_of(vocabulary).get_vocab()

    assert {text: after[text] for text in first.get_vocab()} == first.get_vocab()
    assert ("world" in after) == (source == "union")


def test_listed_tokens_that_are_new_are_appended_with_their_source_s_flags(kit):
    first, second = kit.bpe("hello"), kit.bpe("hello", special=("<a>",), added=("<b>",))
    tokens = {
        "<b>": {"source": "other"},
        "<new>": {"source": {"kind": "zero"}},
        "<a>": {},
    }
    vocabulary = union(kit.model("a", first), kit.model("b", second), source="base", tokens=tokens)
    made = json.loads(vocabulary.files["tokenizer.json"])

    added = [(one["content"], one["id"], one["special"]) for one in made["added_tokens"]]
    count = first.get_vocab_size()
    assert added == [("<b>", count, False), ("<new>", count + 1, True), ("<a>", count + 2, True)]


def test_the_vocabulary_is_padded_to_a_multiple(kit):
    tokenizer = kit.bpe("hello")  # 256 bytes and 4 merges
    for multiple, size in ((1, 260), (10, 260), (64, 320)):
        told = Told(source="base", pad_to_multiple_of=multiple)
        model = kit.model(f"m{multiple}", tokenizer)
        assert make_vocabulary(told, BASE, {BASE: model}).size == size


def test_added_tokens_that_only_the_config_has_are_tokens_too(kit, change):
    first = kit.bpe("hello")
    base = kit.model("a", first, rows=first.get_vocab_size() + 1)
    decoder = {str(first.get_vocab_size()): {"content": "<late>", "special": True}}
    change(
        base.side_files["tokenizer_config.json"],
        lambda told: told.update(added_tokens_decoder=decoder),
    )
    vocabulary = union(base, kit.model("b", kit.bpe("world")))

    assert tokenizer_of(vocabulary).token_to_id("<late>") == first.get_vocab_size()


def test_numbers_with_gaps_are_kept(kit, change):
    first = kit.bpe("hello")
    base = kit.model("a", first, rows=300)
    file = base.side_files["tokenizer.json"]
    change(file, lambda told: told["model"]["vocab"].update({"<far>": 290}))
    vocabulary = union(base, kit.model("b", kit.bpe("hello", special=("<s>",))))

    assert vocabulary.size == 292
    assert tokenizer_of(vocabulary).token_to_id("<s>") == 291


def test_files_that_cannot_be_brought_up_to_date_are_dropped(kit):
    base = kit.model("a", kit.bpe("hello"))
    for name in ("vocab.json", "merges.txt"):
        base.side_files[name] = base.side_files["config.json"]
    grown = union(base, kit.model("b", kit.bpe("world")))
    only_added = union(base, kit.model("c", kit.bpe("hello", special=("<s>",))))

    assert grown.dropped == {"vocab.json", "merges.txt"}
    assert not only_added.dropped
    assert {"vocab.json", "merges.txt"} <= set(only_added.files)


def test_the_files_of_another_model_replace_those_of_the_primary(kit):
    base, other = kit.model("a", kit.bpe("hello")), kit.model("b", kit.bpe("world"))
    base.side_files["tokenizer.model"] = base.side_files["config.json"]
    base.side_files["chat_template.jinja"] = base.side_files["config.json"]
    models = {BASE: base, OTHER: other}
    vocabulary = make_vocabulary(Told(source=OTHER), BASE, models)

    assert vocabulary.dropped == {"tokenizer.model", "chat_template.jinja"}
    assert "config.json" not in vocabulary.files


def test_added_tokens_json_is_carried_on(kit):
    base = kit.model("a", kit.bpe("hello", added=("<tool>",)))
    added = base.path / "added_tokens.json"
    added.write_text('{"<tool>": 260}')
    base.side_files[added.name] = added
    vocabulary = union(base, kit.model("b", kit.bpe("hello", special=("<s>",))))

    assert json.loads(vocabulary.files[added.name]) == {"<tool>": 260, "<s>": 261}


@pytest.mark.parametrize(("first", "second"), [("bpe", "unigram"), ("wordpiece", "bpe")])
def test_a_union_of_two_kinds_is_refused_and_names_both_files(kit, first, second):
    base = kit.model("a", getattr(kit, first)("hello"))
    other = kit.model("b", getattr(kit, second)("hello"))
    with pytest.raises(BadRecipe) as refused:
        union(base, other)

    assert str(base.side_files["tokenizer.json"]) in str(refused.value)
    assert refused.value.file == str(other.side_files["tokenizer.json"])
    assert union(base, other, source="base").size == base.config["vocab_size"]


def test_a_tokenizer_that_only_sentencepiece_reads_is_refused_by_name(kit):
    base = kit.model("a", kit.bpe("hello"))
    base.side_files["tokenizer.model"] = base.side_files.pop("tokenizer.json")
    with pytest.raises(BadRecipe, match=r"no tokenizer\.json") as refused:
        union(base)

    assert refused.value.file == str(base.path)
    assert "tokenizer.model" in refused.value.found


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}']
)
def test_a_malformed_tokenizer_is_refused(kit, content):
    base = kit.model("a", kit.bpe("hello"))
    base.side_files["tokenizer.json"].write_text(content)
    with pytest.raises(BadRecipe) as refused:
        union(base)

    assert refused.value.file == str(base.side_files["tokenizer.json"])


@pytest.mark.parametrize("merge", ["a b c", "ab", ["a"], ["a", 3], None])
def test_a_merge_that_is_not_of_two_tokens_is_refused(kit, change, merge):
    other = kit.model("b", kit.bpe("world"))
    file = other.side_files["tokenizer.json"]
    change(file, lambda told: told["model"].update(merges=[merge]))
    with pytest.raises(BadRecipe, match="two tokens") as refused:
        union(kit.model("a", kit.bpe("hello")), other)

    assert refused.value.file == str(file)


def test_a_source_that_is_no_model_of_the_recipe_is_refused(kit):
    base = kit.model("a", kit.bpe("hello"))
    for told in (
        {"source": "elsewhere"},
        {"tokens": {"<x>": {"source": "elsewhere"}}},
        {"tokens": {"<x>": {"source": {"kind": "model_token", "model": "no", "token": "a"}}}},
    ):
        with pytest.raises(BadRecipe, match="none of the recipe's models"):
            union(base, **told)
