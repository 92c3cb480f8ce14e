"""Embeddings of texts, each computed once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing.keys import key_of
from benchmarks.timing import say
from gateway.routing.encoder_files import kept
from gateway.routing.onnx_encoder import OnnxEncoder

Floats = NDArray[np.float32]
_PIECE = 2048  # texts between two lines of progress


class KeptRows:
    """The full encoder, MiniLM as it is exported for routing, that remembers.

    What it knows is kept in a file between runs.

    Where is_live, it computes what is asked whatever it knows, as a router in service would.
    """

    def __init__(self, path: Path) -> None:
        self.use_threads(1)
        self.path = path
        self.is_live = False
        self._rows: dict[str, Floats] = {}
        if path.is_file():
            with np.load(path) as kept:
                self._rows = dict(zip(kept["keys"].tolist(), kept["rows"], strict=True))

    def use_threads(self, count: int) -> None:
        """From now on the encoder runs on so many."""
        self._encoder = OnnxEncoder(kept(None), count)

    def encode(self, texts: Sequence[str]) -> Floats:
        """float32[n, dim], rows of length 1."""
        if self.is_live or not texts:
            return self._encoder.encode(texts)
        keys = [key_of(text) for text in texts]
        missing = {k: text for k, text in zip(keys, texts, strict=True) if k not in self._rows}
        if missing:
            self._add(missing)
        return np.stack([self._rows[key] for key in keys])

    def _add(self, texts: dict[str, str]) -> None:
        # By length, so that texts in one piece are padded little and progress is told often.
        order = sorted(texts, key=lambda key: len(texts[key]))
        for begin in range(0, len(order), _PIECE):
            keys = order[begin : begin + _PIECE]
            rows = self._encoder.encode([texts[key] for key in keys])
            self._rows.update(zip(keys, rows, strict=True))
            if len(order) > _PIECE:
                say(f"encoded {begin + len(keys)} of {len(order)} texts")

    def save(self) -> None:
        """Write the file, for the next run and for whoever reads it meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".aside.npz")
        np.savez(aside, keys=np.array(list(self._rows)), rows=np.stack(list(self._rows.values())))
        aside.replace(self.path)
