"""What the fleet's models are made of, read from their files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_on_load.errors import MergeError
from model_pool.engine import Weights
from model_pool.errors import SpecialistUnloadable, UnknownModel
from model_pool.settings import BASE_MODEL, PoolSettings

if TYPE_CHECKING:  # torch is slow to import
    from merge_on_load import Checkpoint, Delta, Lora, Merged


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model as it is stored. fault: why it cannot be served, empty where it can.

    stored_size_bytes: on disk. full_size_bytes: what a checkpoint of its own would take.
    lora_rank: the largest of a LoRA adapter, 0 for every other codec.
    """

    model: str
    codec: str
    stored_size_bytes: int
    full_size_bytes: int
    weights: Weights
    lineage: str = ""
    fault: str = ""
    lora_rank: int = 0


class Catalog:
    """The base and the specialists of one fleet, by name."""

    def __init__(self, models: list[ModelFiles], base: Checkpoint | None = None) -> None:
        """base: its checkpoint, so that it need not be hashed again."""
        self._models = {files.model: files for files in models}
        self.base = base

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

    @property
    def digest(self) -> str:
        """Names all of it (SHA-256)."""
        told = [repr(files) for files in self.models()]
        return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()

    def faults_since(self, before: Catalog) -> list[str]:
        """What is wrong with specialists that `before` has not, or not with that fault."""
        known = {(files.model, files.fault) for files in before.models()}
        return [
            f"specialists.{files.model}: {files.fault}"
            for files in self.models()
            if files.fault and (files.model, files.fault) not in known
        ]

    def digests(self) -> dict[str, str]:
        """What names each model's weights."""
        return {files.model: files.weights.digest for files in self.models()}

    def without(self, other: Catalog) -> list[ModelFiles]:
        """The models that `other` has not."""
        return [files for files in self.models() if files.model not in other._models]

    @property
    def lora_rank(self) -> int:
        """The largest of all LoRA adapters that can be served; 0 without any."""
        return max((files.lora_rank for files in self._healthy_loras()), default=0)

    @property
    def lora_count(self) -> int:
        """LoRA adapters that can be served."""
        return len(self._healthy_loras())

    def _healthy_loras(self) -> list[ModelFiles]:
        return [files for files in self.models() if files.weights.lora and not files.fault]


def read_catalog(settings: PoolSettings, base: Checkpoint | None = None) -> Catalog:
    """Open the base, every delta's manifest, every adapter and recipe. Blocking: it hashes the base
    and what recipes merge. base: already open, from an earlier catalog.

    Raises MergeError where the base cannot be read; a specialist that cannot be is kept with its
    fault, so that the others serve.
    """
    from merge_on_load import Checkpoint  # here: torch is slow to import

    base = base or Checkpoint.open(settings.base.path)
    models = [
        ModelFiles(
            model=BASE_MODEL,
            codec="base",
            stored_size_bytes=base.size_bytes,
            full_size_bytes=base.size_bytes,
            weights=Weights(BASE_MODEL, base.fingerprint()),
        )
    ]
    for name, specialist in settings.specialists.items():
        models.append(_read_specialist(name, specialist.source, base))
    return Catalog(models, base)


def _read_specialist(name: str, path: Path, base: Checkpoint) -> ModelFiles:
    from merge_on_load import Lora, Merged, open_delta

    try:
        stored = open_delta(path)
    except MergeError as error:
        return ModelFiles(name, "", 0, base.size_bytes, Weights(name, "", path), fault=str(error))
    if isinstance(stored, Lora):
        return _of_lora(name, stored, base)
    if isinstance(stored, Merged):
        return _of_recipe(name, stored, base)
    return _of_delta(name, stored, base)


def _of_delta(name: str, delta: Delta, base: Checkpoint) -> ModelFiles:
    fault, fingerprint = "", base.fingerprint()
    if delta.base_fingerprint != fingerprint:
        fault = (
            f"{delta.path}: belongs to base {delta.base_fingerprint[:12]}, not {fingerprint[:12]}"
        )
    return ModelFiles(
        model=name,
        codec=delta.codec,
        stored_size_bytes=delta.size_bytes,
        full_size_bytes=base.size_bytes,
        weights=Weights(name, delta.digest, delta.path),
        lineage=json.dumps(_lineage(delta), sort_keys=True),
        fault=fault,
    )


def _lineage(delta: Delta) -> dict[str, Any]:
    """With the deltas that it builds on, as a recipe's lineage has its parents."""
    from merge_on_load.recipes.lineage import of_adapted

    if not delta.parent:
        return delta.lineage
    told = of_adapted({"name": delta.manifest.base_name}, delta.path)
    return {**delta.lineage, "method": told["method"], "parents": told["parents"]}


def _of_lora(name: str, lora: Lora, base: Checkpoint) -> ModelFiles:
    fault = ""
    try:
        lora.check_belongs(base)
    except MergeError as error:
        fault = str(error)
    return ModelFiles(
        model=name,
        codec="lora",
        stored_size_bytes=lora.size_bytes,
        full_size_bytes=base.size_bytes,
        weights=Weights(name, lora.digest, lora=lora.path),
        lineage=json.dumps(lora.lineage, sort_keys=True),
        fault=fault,
        lora_rank=lora.rank,
    )


def _of_recipe(name: str, merged: Merged, base: Checkpoint) -> ModelFiles:
    fault, digest = "", ""
    try:
        merged.check_belongs(base)
        digest = merged.fingerprint()
    except MergeError as error:
        fault = str(error)
    return ModelFiles(
        model=name,
        codec="recipe",
        stored_size_bytes=merged.stored_size_bytes(base),
        full_size_bytes=base.size_bytes,
        weights=Weights(name, digest, merged.path),
        lineage=json.dumps(merged.lineage, sort_keys=True),
        fault=fault,
    )
