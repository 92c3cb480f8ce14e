"""What a worker serves now: its catalog and, for a while, what has left it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from model_pool.catalog import Catalog, ModelFiles
from model_pool.engine import Weights
from model_pool.errors import ConfigRefused


class ServedModels:
    """The catalog in force, replaced whole or not at all.

    A gateway may not have read yet that a model has left, and go on sending requests for it: these
    run for another linger_s. on_gone: told the name of a model that is served no more. digest:
    names what `models` answers (SHA-256).
    """

    def __init__(self, linger_s: float, on_gone: Callable[[str], None]) -> None:
        self._linger_s = linger_s
        self._on_gone = on_gone
        self._lingering: dict[str, tuple[ModelFiles, asyncio.TimerHandle]] = {}
        self.catalog = Catalog([])
        self.digest = ""

    def check(self, catalog: Catalog) -> None:
        """Raises ConfigRefused where one that is new or changed cannot be served."""
        faults = catalog.faults_since(self.catalog)
        if faults:
            raise ConfigRefused("; ".join(faults))

    def replace(self, catalog: Catalog) -> None:
        """Put another in force."""
        left = self.catalog.without(catalog)
        self.catalog = catalog
        for model in [files.model for files in catalog.models()]:
            if model in self._lingering:
                self._lingering.pop(model)[1].cancel()
        for files in left:
            timer = asyncio.get_running_loop().call_later(self._linger_s, self._let_go, files.model)
            self._lingering[files.model] = files, timer
        self._digest()

    def weights(self, model: str) -> Weights:
        """What the model is made of. Raises UnknownModel, SpecialistUnloadable."""
        if model in self._lingering:
            return Catalog([self._lingering[model][0]]).weights(model)
        return self.catalog.weights(model)

    def models(self) -> list[ModelFiles]:
        """All that can be asked for, the base first."""
        return [*self.catalog.models(), *(files for files, _ in self._lingering.values())]

    def _digest(self) -> None:
        told = [self.catalog.digest, *sorted(self._lingering)]
        self.digest = hashlib.sha256("\n".join(told).encode()).hexdigest()

    def _let_go(self, model: str) -> None:
        del self._lingering[model]
        self._digest()
        self._on_gone(model)
