"""Texts → unit rows by an ONNX model on the CPU, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from gateway.routing.head import BadRouter
from gateway.routing.words import Floats

FIRST_TOKENS, LAST_TOKENS = 56, 24  # what is read of a longer text: requests stand at its ends
# Texts of like length that are run at once. In 8 bits one: the scale of activations is a batch's,
# so that a row would depend on its company; and on a CPU company saves little.
_BATCH_COUNTS = {8: 1, 32: 16}
FORMAT = "deltafleet.encoder 2"


class OnnxEncoder:
    """A sentence-transformers model that `encoder_files.make` exported, run by ONNX Runtime."""

    def __init__(self, directory: Path, thread_count: int = 1) -> None:
        """directory: `encoder.json`, `model.onnx`, `tokenizer.json`. Raises BadRouter."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            told = json.loads((directory / "encoder.json").read_text())
            if told["format"] != FORMAT:
                raise BadRouter(f"{directory}: made by another version: {told['format']}")
            self._prompt = str(told["prompt"])
            self._batch_count = _BATCH_COUNTS[told["bits"]]
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            self._session: Any = onnxruntime.InferenceSession(
                str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except BadRouter:
            raise
        except Exception as error:  # each of the readers has its own kinds
            raise BadRouter(f"{directory}: no encoder: {error!r}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def tokens(self, text: str) -> list[int]:
        """What the model reads of a text: special tokens, beginning and end."""
        ids = self.all_tokens(text)
        if len(ids) > FIRST_TOKENS + LAST_TOKENS:
            ids = ids[:FIRST_TOKENS] + ids[-LAST_TOKENS:]
        return ids

    def all_tokens(self, text: str) -> list[int]:
        """Every token of a text, and the special ones."""
        ids: list[int] = self._tokenizer.encode(self._prompt + text).ids
        return ids

    def encode(self, texts: Sequence[str]) -> Floats:
        """float32[n, dim], each row of Euclidean length 1."""
        return self.run([self.tokens(text) for text in texts])

    def run(self, listed: Sequence[list[int]]) -> Floats:
        """The same of tokens. A row does not depend on what else is asked for."""
        if not listed:
            return np.zeros((0, 1), np.float32)
        order = sorted(range(len(listed)), key=lambda place: len(listed[place]))
        step = self._batch_count
        parts = [order[at : at + step] for at in range(0, len(order), step)]
        rows = np.concatenate([self._batch([listed[place] for place in part]) for part in parts])
        found = np.empty_like(rows)
        found[order] = rows
        return found

    def _batch(self, listed: list[list[int]]) -> Floats:
        length = max(map(len, listed))
        ids = np.zeros((len(listed), length), np.int64)
        mask = np.zeros_like(ids)
        for place, one in enumerate(listed):
            ids[place, : len(one)] = one
            mask[place, : len(one)] = 1
        rows = self._session.run(None, {"ids": ids, "mask": mask})[0]
        return np.asarray(rows, np.float32)
