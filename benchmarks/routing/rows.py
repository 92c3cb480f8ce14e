"""Embeddings of texts, each computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing.keys import key_of
from benchmarks.timing import say
from gateway.routing.encoder_files import digest_of, installed, kept
from gateway.routing.onnx_encoder import OnnxEncoder

Floats = NDArray[np.float32]
_PIECE = 2048  # texts between two lines of progress


class KeptRows:
    """An encoder as it is exported for routing, that remembers: in a file, between runs.

    Where is_live, it computes what is asked whatever it knows, as a router in service would.
    """

    def __init__(self, home: Path, encoder: Path) -> None:
        self._directory = encoder
        self.use_threads(1)
        self.path = home / f"rows-{digest_of(encoder)}.npz"
        self.is_live = False
        self._rows: dict[str, Floats] = {}
        if self.path.is_file():
            with np.load(self.path) as known:
                self._rows = dict(zip(known["keys"].tolist(), known["rows"], strict=True))

    def use_threads(self, count: int) -> None:
        """From now on the encoder runs on so many."""
        self._encoder = OnnxEncoder(self._directory, count)

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


@dataclass(frozen=True, slots=True)
class Rows:
    """whole: of all of MiniLM, for the baselines. own: of as much of it as our router reads."""

    whole: KeptRows
    own: KeptRows

    @classmethod
    def kept_in(cls, home: Path) -> Self:
        """What earlier runs left there is known."""
        return cls(KeptRows(home, kept(installed())), KeptRows(home, kept(None)))

    def use_threads(self, count: int) -> None:
        """Both, from now on."""
        for one in (self.whole, self.own):
            one.use_threads(count)

    def encode(self, texts: Sequence[str]) -> None:
        """So that both know them."""
        for one in (self.whole, self.own):
            one.encode(texts)

    def save(self) -> None:
        """Write both files."""
        for one in (self.whole, self.own):
            one.save()

    def be_live(self, *, is_live: bool) -> None:
        """Whether both compute what they are asked."""
        for one in (self.whole, self.own):
            one.is_live = is_live
