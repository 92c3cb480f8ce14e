"""semantic-router, which runs in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from benchmarks.routing.answers import Answers
from benchmarks.routing.data_sets import Prompts

PYTHON = Path(".venv-semantic-router/bin/python")
_SERVER = "benchmarks.routing.semantic_router_server"


class SemanticRouter:
    """A process that answers; end it with `with`."""

    def __init__(self, rows: Path) -> None:
        """rows: a file of KeptRows. Raises FileNotFoundError where the environment is not made."""
        if not PYTHON.exists():
            raise FileNotFoundError(
                f"nothing to compare with in {PYTHON}: tools/semantic-router-env"
            )
        self.settings: dict[str, Any] = {}
        with rows.with_name("semantic_router.log").open("w") as log:
            self._process = self._started(rows, log)

    @staticmethod
    def _started(rows: Path, log: IO[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PYTHON, "-m", _SERVER, rows],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def learn(self, prompts: Prompts, *, is_tuned: bool) -> None:
        """Forget the last prompts for these. is_tuned: its settings are chosen on them."""
        told = {"texts": prompts.texts, "tasks": prompts.tasks, "is_tuned": is_tuned}
        self.settings = dict(self._ask("learn", told)["settings"])

    def answers(self, texts: Sequence[str]) -> Answers:
        """To each text."""
        found = self._ask("answer", {"texts": list(texts)})
        return Answers(
            tuple(found["chosen"]),
            tuple(found["best"]),
            np.array(found["confidences"]),
            np.array(found["beyond"]),
        )

    def decide(self, text: str) -> Answers:
        """To one, the way here and back included; see decision_seconds."""
        return self.answers([text])

    def decision_seconds(self, texts: Sequence[str]) -> list[float]:
        """Of each text, asked alone; the way here and back does not count."""
        return [float(one) for one in self._ask("time", {"texts": list(texts)})["seconds"]]

    def _ask(self, what: str, given: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({what: given}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"semantic-router ended with {self._process.wait()}")
        return dict(json.loads(line))
