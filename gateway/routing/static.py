"""A vector for each word: a prompt's embedding without a neural network. Pure numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from gateway.routing.head import BadRouter
from gateway.routing.words import Floats

_MOST_WORDS = 50_000  # remembered; then all are forgotten
_TENSOR = "embedding.weight"  # as sentence-transformers' StaticEmbedding and model2vec name it


class StaticVectors:
    """Texts → means of their tokens' vectors, each of Euclidean length 1.

    As sentence-transformers' StaticEmbedding, whose files it reads and writes (`model.safetensors`
    and `tokenizer.json`), but word by word, each tokenised once: microseconds instead of tenths of
    a millisecond.
    """

    def __init__(self, table: NDArray[np.float16], tokenizer: Tokenizer) -> None:
        """table: [tokens of the tokenizer, dim]."""
        self._table = table
        self._tokenizer = tokenizer
        self._forget()

    @property
    def width(self) -> int:
        """Dimensions."""
        return int(self._table.shape[1])

    def row(self, words: list[str]) -> Floats:
        """words: as `tokens_of` parts a text. Returns float32[dim]; zeros where it has none."""
        try:
            places = [self._places[word] for word in words]
        except KeyError:
            places = self._learned(words)
        if not places:
            return np.zeros(self.width, np.float32)
        found = self._sums[places].sum(0)
        norm = float(np.sqrt(found @ found))
        return np.asarray(found / np.float32(norm or 1.0), np.float32)

    def _learned(self, words: list[str]) -> list[int]:
        if self._count + len(words) > len(self._sums):
            self._forget()
        for word in words:
            if word in self._places:
                continue
            if self._count == len(self._sums):  # a text with more words than are remembered
                break
            pieces = self._tokenizer.encode(word, add_special_tokens=False).ids
            self._sums[self._count] = self._table[pieces].astype(np.float32).sum(0)
            self._places[word] = self._count
            self._count += 1
        return [self._places[word] for word in words if word in self._places]

    def _forget(self) -> None:
        self._sums = np.zeros((_MOST_WORDS, self.width), np.float32)
        self._places: dict[str, int] = {}
        self._count = 0

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
