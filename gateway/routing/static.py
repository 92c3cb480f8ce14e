"""A vector for each word: a prompt's embedding without a neural network. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from gateway.routing.head import BadRouter
from gateway.routing.words import Floats

_TENSOR = "embedding.weight"  # as sentence-transformers' StaticEmbedding and model2vec name it


class StaticVectors:
    """Texts → means of their tokens' vectors, each of Euclidean length 1.

    It reads and writes the files of sentence-transformers' StaticEmbedding (`model.safetensors` and
    `tokenizer.json`), and adds up words, whose own sums can be remembered.
    """

    def __init__(self, table: NDArray[np.float16], tokenizer: Tokenizer) -> None:
        """table: [tokens of the tokenizer, dim]."""
        self._table = table
        self._tokenizer = tokenizer

    @property
    def width(self) -> int:
        """Dimensions."""
        return int(self._table.shape[1])

    def sums(self, words: Sequence[str]) -> Floats:
        """Of each word's tokens' vectors: float32[words, dim]."""
        parted = self._tokenizer.encode_batch(list(words), add_special_tokens=False)
        found = np.zeros((len(words), self.width), np.float32)
        for i, one in enumerate(parted):
            found[i] = self._table[one.ids].astype(np.float32).sum(0)
        return found

    def rows(self, listed: Sequence[Sequence[str]]) -> Floats:
        """listed: each text's words. Returns float32[texts, dim]; zeros where one has none."""
        every = sorted({word for words in listed for word in words})
        places = {word: i for i, word in enumerate(every)}
        sums = self.sums(every)
        rows = np.zeros((len(listed), self.width), np.float32)
        for i, words in enumerate(listed):
            rows[i] = sums[[places[word] for word in words]].sum(0)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)

    def save(self, directory: Path) -> None:
        """Write `model.safetensors` and `tokenizer.json`."""
        save_file({_TENSOR: np.ascontiguousarray(self._table)}, directory / "model.safetensors")
        self._tokenizer.save(str(directory / "tokenizer.json"))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Raises BadRouter."""
        try:
            tensors = load_file(directory / "model.safetensors")
            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # tokenizers raises plain Exception
            raise BadRouter(f"{directory}: no static embedding: {error!r}") from error
        table = tensors.get(_TENSOR, tensors.get("embeddings"))
        if table is None or table.ndim != 2 or len(table) < tokenizer.get_vocab_size():
            raise BadRouter(f"{directory}: {_TENSOR} has no row for each token")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(table.astype(np.float16), tokenizer)
