"""What the fleet's models are made of, read from their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from merge_on_load.errors import MergeError
from model_pool.engine import Weights
from model_pool.errors import SpecialistUnloadable, UnknownModel
from model_pool.settings import BASE_MODEL, PoolSettings


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model as it is stored. fault: why it cannot be served, empty where it can.

    stored_size_bytes: on disk. full_size_bytes: what a checkpoint of its own would take.
    """

    model: str
    codec: str
    stored_size_bytes: int
    full_size_bytes: int
    weights: Weights
    lineage: str = ""
    fault: str = ""


class Catalog:
    """The base and the specialists of one fleet, by name."""

    def __init__(self, models: list[ModelFiles]) -> None:
        self._models = {files.model: files for files in models}

    def models(self) -> list[ModelFiles]:
        """All of them, the base first."""
        return list(self._models.values())

    def weights(self, model: str) -> Weights:
        """What the model is made of. Raises UnknownModel, SpecialistUnloadable."""
        files = self._models.get(model)
        if files is None:
            raise UnknownModel(f"no model is called {model!r}", model=model)
        if files.fault:
            raise SpecialistUnloadable(
                f"the weights of {model} cannot be built: {files.fault}", model=model
            )
        return files.weights


def read_catalog(settings: PoolSettings) -> Catalog:
    """Open the base and every delta's manifest. Blocking: it hashes the base.

    Raises MergeError where the base cannot be read; a delta that cannot be is kept with its fault,
    so that the others serve.
    """
    from merge_on_load import Checkpoint  # here: torch is slow to import

    base = Checkpoint.open(settings.base.path)
    fingerprint = base.fingerprint()
    models = [
        ModelFiles(
            model=BASE_MODEL,
            codec="base",
            stored_size_bytes=base.size_bytes,
            full_size_bytes=base.size_bytes,
            weights=Weights(BASE_MODEL, fingerprint),
        )
    ]
    for name, specialist in settings.specialists.items():
        models.append(_read_delta(name, specialist.delta, base.size_bytes, fingerprint))
    return Catalog(models)


def _read_delta(name: str, path: Path, full_size_bytes: int, fingerprint: str) -> ModelFiles:
    from merge_on_load import Delta

    try:
        delta = Delta.open(path)
    except MergeError as error:
        return ModelFiles(name, "", 0, full_size_bytes, Weights(name, "", path), fault=str(error))
    fault = ""
    if delta.base_fingerprint != fingerprint:
        fault = f"{path}: belongs to base {delta.base_fingerprint[:12]}, not {fingerprint[:12]}"
    return ModelFiles(
        model=name,
        codec=delta.codec,
        stored_size_bytes=delta.size_bytes,
        full_size_bytes=full_size_bytes,
        weights=Weights(name, delta.digest, path),
        lineage=json.dumps(delta.lineage, sort_keys=True),
        fault=fault,
    )
