"""What `deltafleet router fit` learns, and its directory."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from gateway.routing.head import BadRouter, Head
from gateway.routing.labelled import OUT_OF_SCOPE
from gateway.routing.words import Words

_FORMAT = "deltafleet.router 3"
ENCODER = "encoder"  # the directory in it


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Two heads, for two embeddings: of the words alone, and of the whole text.

    clear: where the static head's decision has at least this probability, it stands; else the full
    encoder is asked. knows_beyond: prompts out of scope were learned from; without, the static step
    never refuses alone. facts: how it was made and measured.
    """

    tasks: tuple[str, ...]
    words: Words
    static: Head
    full: Head
    clear: float
    knows_beyond: bool
    facts: dict[str, Any]

    def save(self, directory: Path, encoder: Path) -> None:
        """Write `router.json`, `heads.safetensors`, `terms.txt` and a copy of the encoder."""
        told = {
            "format": _FORMAT,
            "tasks": list(self.tasks),
            "clear": self.clear,
            "knows_beyond": self.knows_beyond,
            "static_scope_threshold": self.static.scope_threshold,
            "full_scope_threshold": self.full.scope_threshold,
            "facts": self.facts,
        }
        (directory / "router.json").write_text(json.dumps(told, indent=1) + "\n")
        tensors = {"idf": self.words.idf}
        for name, head in (("static", self.static), ("full", self.full)):
            tensors |= {f"{name}.{key}": one for key, one in head.tensors().items()}
        in_order = {name: np.ascontiguousarray(one) for name, one in tensors.items()}
        save_file(in_order, directory / "heads.safetensors")  # which writes memory as it lies
        listed = "".join(f"{one}\n" for one in self.words.terms)
        (directory / "terms.txt").write_text(listed, "utf-8")
        shutil.copytree(encoder, directory / ENCODER)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """All but the encoder. Raises BadRouter."""
        try:
            told = json.loads((directory / "router.json").read_text())
            if told["format"] != _FORMAT:
                raise BadRouter(f"{directory}: made by another version: {told['format']}")
            found = cls._made(directory, told)
            if found.tasks.count(OUT_OF_SCOPE) != 1 or len(found.tasks) < 2:
                raise BadRouter(f"{directory}: no tasks, or {OUT_OF_SCOPE} is missing")
            for head in (found.static, found.full):
                head.check(width=head.dense.shape[1], term_count=len(found.words.terms))
        except BadRouter:
            raise
        except Exception as error:  # whatever a damaged file makes the readers raise
            raise BadRouter(f"{directory}: no router: {error!r}") from error
        return found

    @classmethod
    def _made(cls, directory: Path, told: dict[str, Any]) -> Self:
        tensors = load_file(directory / "heads.safetensors")
        terms = (directory / "terms.txt").read_text("utf-8").split("\n")[:-1]
        if len(terms) != len(tensors["idf"]):
            raise BadRouter(f"{directory}: {len(terms)} terms, {len(tensors['idf'])} weights")
        tasks = tuple(map(str, told["tasks"]))
        static, full = (
            Head.from_tensors(
                tasks,
                {
                    key.removeprefix(f"{name}."): one
                    for key, one in tensors.items()
                    if key.startswith(f"{name}.")
                },
                float(told[f"{name}_scope_threshold"]),
            )
            for name in ("static", "full")
        )
        words = Words.of(terms, tensors["idf"])
        clear, knows_beyond = float(told["clear"]), bool(told["knows_beyond"])
        return cls(tasks, words, static, full, clear, knows_beyond, dict(told["facts"]))
