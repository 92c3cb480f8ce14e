"""Every model's embeddings and head in the result's vocabulary, in numbers."""

import pytest
import torch

from merge_on_load.errors import BadRecipe, NonFinite, ShapeMismatch, UnsupportedDtype
from merge_on_load.recipes.document import Tokenizer as Told
from merge_on_load.recipes.references import Reference
from merge_on_load.vocabulary import make_vocabulary

BASE, OTHER, THIRD = Reference("base"), Reference("other"), Reference("third")


def make(models, base=BASE, **told):
    """The vocabulary, and the models revised to it."""
    vocabulary = make_vocabulary(Told(**told), base, models)
    return vocabulary, {one: vocabulary.revised(one, models[one]) for one in models}


def three(kit, **options):
    """Models that have: all `hello`; base `<a>`; base and third `<c>`; other `<b>`, third `<b>`."""
    return {
        BASE: kit.model("a", kit.bpe("hello", special=("<a>", "<c>")), **options),
        OTHER: kit.model("b", kit.bpe("hello", special=("<b>", "<only>")), **options),
        THIRD: kit.model("c", kit.bpe("hello", special=("<c>", "<b>")), **options),
    }


def mean(dtype, *rows):
    return (sum(rows) / len(rows)).to(dtype).float()


NUMBERS = {"<a>": 260, "<c>": 261, "<b>": 262, "<only>": 263}  # of the union of `three`


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_rows_a_model_lacks_are_the_base_s_or_the_only_one_s_or_the_mean(kit, dtype, name):
    models = three(kit, dtype=dtype)
    vocabulary, revised = make(models)
    base, other, third = (kit.rows_of(models[one], name) for one in models)
    got = [kit.rows_of(revised[one], name) for one in models]

    assert vocabulary.size == 264
    for before, after in zip((base, other, third), got, strict=True):
        assert torch.equal(after[:260], before[:260])
    of_b = mean(dtype, other[260], third[261])
    expected = {
        "<a>": (base[260], base[260], base[260]),
        "<c>": (base[261], base[261], third[260]),
        "<b>": (of_b, other[260], third[261]),
        "<only>": (other[261], other[261], other[261]),
    }
    for text, wanted in expected.items():
        for found, row in zip(got, wanted, strict=True):
            assert torch.equal(found[NUMBERS[text]], row), text


def test_without_a_base_what_several_have_is_their_mean(kit):
    models = three(kit)
    _, revised = make(models, base=None)
    base, third = kit.rows_of(models[BASE], kit.HEAD), kit.rows_of(models[THIRD], kit.HEAD)
    other = kit.rows_of(revised[OTHER], kit.HEAD)

    assert torch.equal(other[NUMBERS["<c>"]], mean(torch.bfloat16, base[261], third[260]))
    assert torch.equal(other[NUMBERS["<a>"]], base[260])


def test_the_mean_of_three_is_rounded_once(kit):
    names = (BASE, OTHER, THIRD, Reference("fourth"))
    specials = (("<x>",), ("<x>",), ("<x>",), ())
    models = {
        name: kit.model(name.path, kit.bpe("hello", special=special))
        for name, special in zip(names, specials, strict=True)
    }
    _, revised = make(models, base=None)
    rows = [kit.rows_of(models[name], kit.EMBEDDING)[260] for name in names[:3]]

    found = kit.rows_of(revised[names[3]], kit.EMBEDDING)[260]
    exact = torch.stack(rows).double().mean(0)
    assert torch.equal(found, ((rows[0] + rows[1] + rows[2]) / 3).bfloat16().float())
    assert torch.allclose(found.double(), exact, rtol=2**-8)


def test_rows_follow_their_tokens_to_another_model_s_numbering(kit):
    first, second = kit.bpe("hello", "world"), kit.bpe("world", "hello")
    models = {BASE: kit.model("a", first), OTHER: kit.model("b", second)}
    _, revised = make(models, source="base")
    before, after = (
        kit.rows_of(models[OTHER], kit.EMBEDDING),
        kit.rows_of(revised[OTHER], kit.EMBEDDING),
    )

    assert revised[BASE] is models[BASE]
    for text, number in first.get_vocab().items():
        assert torch.equal(after[number], before[second.token_to_id(text)]), text


def test_everything_else_is_the_model_s_own(kit):
    models = three(kit)
    _, revised = make(models)
    source, own = revised[OTHER], models[OTHER]

    assert list(source.names) == own.names
    assert (source.path, source.config, source.side_files) == (own.path, own.config, own.side_files)
    assert source.lineage == own.lineage
    name = "model.layers.0.mlp.up_proj.weight"
    assert source.spec(name) == own.spec(name)
    assert source.raw(name).ctypes.data == own.raw(name).ctypes.data
    source.release(name)
    assert own.released == [name]


def test_a_model_that_has_the_vocabulary_already_is_left_alone(kit):
    tokenizer = kit.bpe("hello", special=("<s>",))
    models = {BASE: kit.model("a", tokenizer), OTHER: kit.model("b", tokenizer)}
    vocabulary, revised = make(models)

    assert all(revised[one] is models[one] for one in models)
    assert (
        vocabulary.files["tokenizer.json"] == models[BASE].side_files["tokenizer.json"].read_bytes()
    )


def test_padding_rows_of_models_are_dropped_and_those_of_the_result_are_zeros(kit):
    tokenizer = kit.bpe("hello")
    models = {
        BASE: kit.model("a", tokenizer, rows=288),
        OTHER: kit.model("b", tokenizer, rows=272),
    }
    assert make(models)[0].size == 260
    vocabulary, revised = make(models, pad_to_multiple_of=32)

    assert vocabulary.size == 288
    for one in models:
        found = kit.rows_of(revised[one], kit.HEAD)
        assert torch.equal(found[:260], kit.rows_of(models[one], kit.HEAD)[:260])
        assert not found[260:].any()


def test_a_head_may_have_other_padding_but_needs_every_token(kit):
    models = three(kit)
    own = models[OTHER]
    head = own.tensors[kit.HEAD]
    own.tensors[kit.HEAD] = torch.cat([head, torch.ones_like(head[:9])])
    _, revised = make(models)
    found = kit.rows_of(revised[OTHER], kit.HEAD)

    assert found.shape[0] == 264
    assert torch.equal(found[262:], head[260:].float())
    own.tensors[kit.HEAD] = head[:261]
    with pytest.raises(ShapeMismatch, match="fewer rows") as refused:
        make(models)
    assert (refused.value.file, refused.value.tensor) == (str(own.path), kit.HEAD)


def test_tokens_without_an_embedding_count_as_lacking(kit):
    with_row = kit.bpe("hello", special=("<s>",))
    models = {
        BASE: kit.model("a", with_row, rows=260),
        OTHER: kit.model("b", with_row),
    }
    _, revised = make(models)

    expected = kit.rows_of(models[OTHER], kit.EMBEDDING)[260]
    assert torch.equal(kit.rows_of(revised[BASE], kit.EMBEDDING)[260], expected)


def test_a_tied_model_has_no_head_and_lends_its_embeddings_for_one(kit):
    models = {
        BASE: kit.model("a", kit.bpe("hello", special=("<a>",)), tied=True),
        OTHER: kit.model("b", kit.bpe("hello", special=("<b>",))),
    }
    assert kit.HEAD not in models[BASE].names
    _, revised = make(models)
    base = kit.rows_of(models[BASE], kit.EMBEDDING)

    assert torch.equal(kit.rows_of(revised[OTHER], kit.HEAD)[260], base[260])
    assert torch.equal(
        kit.rows_of(revised[BASE], kit.EMBEDDING)[261],
        kit.rows_of(models[OTHER], kit.EMBEDDING)[260],
    )


def test_a_head_s_bias_is_rearranged_and_none_is_a_bias_of_zeros(kit):
    models = {
        BASE: kit.model("a", kit.bpe("hello", special=("<a>",))),
        OTHER: kit.model("b", kit.bpe("hello", special=("<b>",))),
    }
    models[OTHER].tensors["lm_head.bias"] = torch.arange(261.0)
    models[OTHER].names.append("lm_head.bias")
    _, revised = make(models)

    expected = torch.arange(262.0)
    expected[260:] = torch.tensor([0.0, 260.0])
    assert torch.equal(kit.rows_of(revised[OTHER], "lm_head.bias"), expected)


def test_a_token_s_source_is_for_those_that_lack_it_and_forced_for_all(kit):
    models = three(kit)
    tokens = {"<b>": {"source": "third"}, "<c>": {"source": "third", "force": True}}
    _, revised = make(models, tokens=tokens)
    other, third = (kit.rows_of(models[one], kit.EMBEDDING) for one in (OTHER, THIRD))
    got = [kit.rows_of(revised[one], kit.EMBEDDING) for one in models]

    for found, row in zip(got, (third[261], other[260], third[261]), strict=True):
        assert torch.equal(found[NUMBERS["<b>"]], row)
    for found in got:
        assert torch.equal(found[NUMBERS["<c>"]], third[260])


def test_a_forced_token_without_a_source_has_the_fallback_in_all(kit):
    models = three(kit)
    _, revised = make(models, tokens={"<b>": {"force": True}, "<c>": {"force": True}})
    base, other, third = (kit.rows_of(models[one], kit.EMBEDDING) for one in models)

    for one in models:
        found = kit.rows_of(revised[one], kit.EMBEDDING)
        assert torch.equal(found[NUMBERS["<b>"]], mean(torch.bfloat16, other[260], third[261]))
        assert torch.equal(found[NUMBERS["<c>"]], base[261])


def test_a_token_can_be_another_model_s_other_token_or_zeros(kit):
    models = three(kit)
    tokens = {
        "<renamed>": {"source": {"kind": "model_token", "model": "other", "token": "<only>"}},
        "<third>": {"source": {"kind": "model_token", "model": "base", "token_id": 3}},
        "<zero>": {"source": {"kind": "zero"}},
        "<c>": {"source": {"kind": "zero"}, "force": True},
    }
    vocabulary, revised = make(models, source="base", tokens=tokens)
    base, other = (kit.rows_of(models[one], kit.EMBEDDING) for one in (BASE, OTHER))

    assert vocabulary.size == 265
    for one in models:
        found = kit.rows_of(revised[one], kit.EMBEDDING)
        assert torch.equal(found[262], other[261])
        assert torch.equal(found[263], base[3])
        assert not found[264].any()
        assert not found[261].any()


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ({}, "its source must be told"),
        ({"force": True}, "its source must be told"),
        ({"source": "other"}, "no such token"),
        ({"source": {"kind": "model_token", "model": "other", "token": "<no>"}}, "no such token"),
        ({"source": {"kind": "model_token", "model": "other", "token_id": 262}}, "262 rows"),
        ({"source": {"kind": "model_token", "model": "other", "token_id": -1}}, "no such token"),
    ],
)
def test_a_token_that_comes_from_nowhere_is_refused(kit, token, problem):
    with pytest.raises(BadRecipe, match=problem):
        make(three(kit), tokens={"<new>": token})


def test_rows_of_another_dtype_are_rounded_to_the_model_s(kit):
    models = {
        BASE: kit.model("a", kit.bpe("hello", special=("<a>",)), dtype=torch.float32),
        OTHER: kit.model("b", kit.bpe("hello", special=("<b>",))),
    }
    _, revised = make(models)
    base = kit.rows_of(models[BASE], kit.EMBEDDING)
    found = kit.rows_of(revised[OTHER], kit.EMBEDDING)

    assert torch.equal(found[260], base[260].bfloat16().float())
    assert revised[OTHER].spec(kit.EMBEDDING).dtype == "BF16"


def test_rounding_is_torch_s_to_the_last_bit():
    import numpy as np

    from merge_on_load.rounding import from_float32, to_float32

    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, np.uint32)
    edges = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x80000000, 1], np.uint32)
    values = np.concatenate([bits, edges]).view(np.float32)
    values = values[np.isfinite(values)]
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float32, "F32")):
        expected = torch.from_numpy(values).to(dtype)
        found = from_float32(values, name)
        assert np.array_equal(to_float32(found, name), expected.float().numpy())


def test_what_cannot_be_a_row_is_refused_with_file_and_tensor(kit):
    models = three(kit)
    wide = kit.model("wide", kit.bpe("hello", special=("<w>",)), width=16)
    with pytest.raises(ShapeMismatch) as refused:
        make({**models, Reference("wide"): wide})
    assert refused.value.file == str(wide.path)
    assert refused.value.tensor == kit.HEAD  # the first in the file

    models[OTHER].tensors[kit.HEAD][261, 3] = float("nan")
    models[OTHER].tensors[kit.HEAD][260, 3] = float("inf")
    _, revised = make(models)
    with pytest.raises(NonFinite) as refused:  # the mean of <b>
        revised[BASE].raw(kit.HEAD)
    assert (refused.value.file, refused.value.tensor) == (str(models[OTHER].path), kit.HEAD)

    for one in models.values():
        one.tensors[kit.EMBEDDING] = one.tensors[kit.EMBEDDING].to(torch.int8)
    with pytest.raises(UnsupportedDtype, match="mean"):
        make(models)
