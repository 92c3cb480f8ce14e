"""Tiny real models with tiny real tokenizers, and what is read from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import raw_bytes, spec_of

WIDTH = 8


class Opened:
    """A model directory as the recipes' `Source`; counts what is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths = (path,)
        self.config = json.loads((path / "config.json").read_text())
        self.side_files = {
            one.name: one for one in sorted(path.iterdir()) if one.suffix != ".safetensors"
        }
        self.lineage = {"name": path.name}
        self.tensors = load_file(path / "model.safetensors")
        self.names = list(self.tensors)
        self.asked: list[str] = []
        self.released: list[str] = []

    def spec(self, name: str) -> TensorSpec:
        return spec_of(self.tensors[name])

    def raw(self, name: str) -> Any:
        self.asked.append(name)
        return raw_bytes(self.tensors[name])

    def fingerprint(self) -> str:
        return self.path.name

    def held_bytes(self, name: str) -> int:
        return 0

    def release(self, name: str) -> None:
        self.released.append(name)


def bpe(*words: str, special: tuple[str, ...] = (), added: tuple[str, ...] = ()) -> Tokenizer:
    """Byte-level, a token for each of these words: merged letter by letter from the left."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [*alphabet, *("".join(one) for one in merges)]
    tokenizer = Tokenizer(
        models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=list(merges))
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_added(tokenizer, special, added)


def unigram(*words: str, special: tuple[str, ...] = (), added: tuple[str, ...] = ()) -> Tokenizer:
    """Letters, and these words with better scores the earlier they are."""
    letters = [(one, -10.0) for one in "▁abcdefghijklmnopqrstuvwxyz"]
    pieces = [(f"▁{word}", -1.0 - i) for i, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *letters, *pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _with_added(tokenizer, special, added)


def wordpiece(*words: str, special: tuple[str, ...] = (), added: tuple[str, ...] = ()) -> Tokenizer:
    """Letters, letters that continue a word, and these words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = ["[UNK]", *letters, *(f"##{one}" for one in letters), *words]
    vocab = {text: i for i, text in enumerate(texts)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return _with_added(tokenizer, special, added)


def _with_added(
    tokenizer: Tokenizer, special: tuple[str, ...], added: tuple[str, ...]
) -> Tokenizer:
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens(list(added))
    return tokenizer


def rows_of(source: Any, name: str) -> torch.Tensor:
    """A tensor of a source as float32."""
    spec = source.spec(name)
    raw = torch.from_numpy(np.array(source.raw(name)))
    source.release(name)
    return raw.view(spec.torch_dtype).reshape(spec.shape).float()


class Kit:
    """What the tests build with."""

    bpe = staticmethod(bpe)
    unigram = staticmethod(unigram)
    wordpiece = staticmethod(wordpiece)
    rows_of = staticmethod(rows_of)
    EMBEDDING = "model.embed_tokens.weight"
    HEAD = "lm_head.weight"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0

    def model(
        self,
        name: str,
        tokenizer: Tokenizer,
        *,
        rows: int | None = None,
        tied: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        width: int = WIDTH,
        roles: dict[str, Any] | None = None,
        **config: Any,
    ) -> Opened:
        """A Llama with random weights. rows: of its embeddings; None: as many as it has tokens."""
        self._count += 1
        torch.manual_seed(self._count)
        told = LlamaConfig(
            vocab_size=rows or tokenizer.get_vocab_size(),
            hidden_size=width,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            **{"bos_token_id": None, "eos_token_id": None, **config},
        )
        path = self._root / name
        LlamaForCausalLM(told).to(dtype).save_pretrained(path)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(roles or {})).save_pretrained(path)
        return Opened(path)

    def open(self, path: Path) -> Opened:
        """A directory that a test has written."""
        return Opened(path)

    def write(self, name: str, files: dict[str, bytes], beside: Opened | None = None) -> Path:
        """A directory with these files. beside: the model whose other small files it has too."""
        path = self._root / name
        path.mkdir()
        for file, source in (beside.side_files if beside else {}).items():
            (path / file).write_bytes(source.read_bytes())
        for file, content in files.items():
            (path / file).write_bytes(content)
        return path


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


@pytest.fixture
def change() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """change(file, how) lets `how` change a JSON file's mapping in place."""

    def rewrite(file: Path, how: Callable[[dict[str, Any]], None]) -> None:
        told = json.loads(file.read_text())
        how(told)
        file.write_text(json.dumps(told))

    return rewrite
