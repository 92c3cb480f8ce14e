"""Vocabularies brought together: what we write against what mergekit writes, token by token.

The merge is linear, so that each model's row of each token shows in the result. Numbers of tokens
that a union adds are another in every run of mergekit: rows are compared by the token's text.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conformance import tokenized
from conformance.peer import failure, run_mergekit
from conformance.tokenized import bpe, read_tokenizer

from merge_on_load.recipes import merge
from support.many_architectures import tensors

Document = dict[str, Any]

EMBEDDING = "model.embed_tokens.weight"
WEIGHTS = {"base": 0.5, "a": 0.3, "b": 0.2}
TOKENIZERS = {
    "base": bpe("hello", special=("<a>", "<c>")),
    "a": bpe("hello", "world", "Ġtale", special=("<b>", "<only>")),
    "b": bpe("world", "hello", special=("<c>", "<b>"), added=("<tool>",)),
}


def linear(**told: Any) -> Document:
    models = [{"model": one, "parameters": {"weight": part}} for one, part in WEIGHTS.items()]
    return {
        "merge_method": "linear",
        "models": models,
        "base_model": "base",
        "dtype": "float32",
        **told,
    }


def with_tokens(source: str = "union", **tokens: Any) -> Document:
    return linear(tokenizer={"source": source, "tokens": {f"<{k}>": v for k, v in tokens.items()}})


ZERO = {"kind": "zero"}
ANOTHER = {"kind": "model_token", "model": "a", "token": "<only>"}
NUMBERED = {"kind": "model_token", "model": "base", "token_id": 3}

RECIPES = {
    "union": linear(tokenizer_source="union"),
    "union-padded": linear(tokenizer={"source": "union", "pad_to_multiple_of": 32}),
    "of-base": linear(tokenizer_source="base"),
    "of-base-padded": linear(tokenizer={"source": "base", "pad_to_multiple_of": 64}),
    "of-b": linear(tokenizer_source="b"),
    "of-b-told": linear(tokenizer={"source": "b"}),
    "token-of-a-model": with_tokens(b={"source": "b"}),
    "token-forced": with_tokens(b={"source": "b", "force": True}, c={"source": "b", "force": True}),
    "token-of-zeros": with_tokens(a={"source": ZERO}, only={"source": ZERO, "force": True}),
    "token-of-another": with_tokens(b={"source": ANOTHER}, c={"source": NUMBERED, "force": True}),
    "token-new": with_tokens(new={"source": ANOTHER}, zero={"source": ZERO}),
    "tokens-under-base": with_tokens("base", c={"source": "b", "force": True}, a={"source": ZERO}),
}
RECIPES["union-without-base"] = {
    key: value for key, value in RECIPES["union"].items() if key != "base_model"
}
# What mergekit 0.1.5 fails on, and how its message begins.
REFUSED = {
    "new-under-base": (with_tokens("base", b={"source": "a"}), "KeyError"),
    "forced-without-source": (with_tokens(b={"force": True}), "NotImplementedError"),
}


# With a head of its own, and with the embeddings for one.
RUNS = [
    *(("untied", name) for name in RECIPES),
    *(("tied", name) for name in ("union-padded", "of-base", "token-forced", "token-new")),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two directories with the models, the recipes and what mergekit made of them."""
    root = tmp_path_factory.mktemp("vocabularies")
    for kind in ("untied", "tied"):
        for seed, (name, tokenizer) in enumerate(TOKENIZERS.items()):
            config = {"tie_word_embeddings": kind == "tied", "num_hidden_layers": 1}
            tokenized.save(root / kind / name, "llama", tokenizer, seed, 5 * seed, **config)
    recipes = [(kind, name, RECIPES[name]) for kind, name in RUNS]
    recipes += [("untied", name, one) for name, (one, _) in REFUSED.items()]
    for kind, name, one in recipes:
        (root / kind / f"{name}.yaml").write_text(yaml.safe_dump(one))
    run_mergekit(root / "untied")
    run_mergekit(root / "tied")
    return root


@pytest.fixture
def home(both: Path) -> Path:
    """Of the models that have a head of their own."""
    return both / "untied"


@pytest.mark.parametrize(("kind", "name"), RUNS)
def test_each_token_has_mergekit_s_row(both: Path, kind: str, name: str, tmp_path: Path) -> None:
    home = both / kind
    assert not failure(home, name)
    merge(home / f"{name}.yaml", tmp_path / "ours")

    found, expected = tensors(tmp_path / "ours"), tensors(home / name)
    ours, theirs = (read_tokenizer(one).get_vocab() for one in (tmp_path / "ours", home / name))
    assert ours.keys() == theirs.keys()
    owner = TOKENIZERS["b" if name in ("of-b", "of-b-told") else "base"]
    for text, number in owner.get_vocab().items():
        assert ours[text] == number
        # Without a base mergekit has the numbers of one model, not of the same in every run.
        assert theirs[text] == number or name == "union-without-base"
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    for tensor in expected:
        if tensor in (EMBEDDING, "lm_head.weight"):
            found[tensor] = found[tensor][[ours[text] for text in ours]]
            expected[tensor] = expected[tensor][[theirs[text] for text in ours]]
        torch.testing.assert_close(found[tensor], expected[tensor], rtol=1e-6, atol=1e-7)
    assert told(tmp_path / "ours", "vocab_size") == told(home / name, "vocab_size")


def told(path: Path, key: str) -> Any:
    """What a config.json says."""
    return json.loads((path / "config.json").read_text())[key]


# Where the two differ: merge_on_load/DIFFERENCES.md.


@pytest.mark.parametrize("name", ["union-padded", "of-base-padded"])
def test_padding_is_zeros_here_and_the_mean_row_there(
    home: Path, name: str, tmp_path: Path
) -> None:
    merge(home / f"{name}.yaml", tmp_path / "ours")

    count = read_tokenizer(home / name).get_vocab_size()
    theirs = tensors(home / name)[EMBEDDING]
    assert not tensors(tmp_path / "ours")[EMBEDDING][count:].any()
    mean = theirs[:count].mean(0).expand(len(theirs) - count, -1)
    torch.testing.assert_close(theirs[count:], mean, rtol=1e-4, atol=1e-6)


def test_a_union_s_pieces_are_found_in_a_text_here_alone(home: Path, tmp_path: Path) -> None:
    merge(home / "union.yaml", tmp_path / "ours")

    ours, theirs = read_tokenizer(tmp_path / "ours"), read_tokenizer(home / "union")
    assert ours.encode("a tale").tokens == ["a", "Ġtale"]
    assert theirs.encode("a tale").tokens == ["a", *"Ġtale"]
    added = {one.content for one in theirs.get_added_tokens_decoder().values()}
    assert {"Ġtale", "world"} <= added


def test_the_end_token_is_that_of_the_tokenizer(home: Path, tmp_path: Path) -> None:
    merge(home / "of-b.yaml", tmp_path / "ours")

    ends = [told(one, "eos_token_id") for one in (tmp_path / "ours", home / "of-b")]
    end = tokenized.END
    assert ends == [TOKENIZERS["b"].token_to_id(end), TOKENIZERS["base"].token_to_id(end)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_mergekit_fails_on_is_merged(home: Path, name: str, tmp_path: Path) -> None:
    assert failure(home, name).startswith(REFUSED[name][1])

    merge(home / f"{name}.yaml", tmp_path / "ours")

    ours = read_tokenizer(tmp_path / "ours")
    found = tensors(tmp_path / "ours")[EMBEDDING][ours.token_to_id("<b>")]
    rows = {
        one: tensors(home / one)[EMBEDDING][TOKENIZERS[one].token_to_id("<b>")]
        for one in ("a", "b")
    }
    if name == "new-under-base":  # the base has none: a's row
        expected = 0.5 * rows["a"] + 0.3 * rows["a"] + 0.2 * rows["b"]
    else:  # the mean of those that have it, for all
        expected = (rows["a"] + rows["b"]) / 2
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
