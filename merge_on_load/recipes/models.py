"""The models that a recipe's file names, each opened once."""

from pathlib import Path

from merge_on_load.checkpoint import Checkpoint
from merge_on_load.errors import BadRecipe
from merge_on_load.names import is_delta
from merge_on_load.recipes.references import Fetch, Reference, locate
from merge_on_load.recipes.sources import Adapted, CheckpointSource, Source


class Models:
    """What references mean in one file. earlier: documents that were planned, by name."""

    def __init__(self, file: Path, fetch: Fetch | None = None) -> None:
        """fetch: see `locate`."""
        self._file = file
        self._fetch = fetch
        self._opened: dict[tuple[Reference, Reference | None], Source] = {}
        self.earlier: dict[str, Source] = {}

    def open(self, reference: Reference, base: Reference | None) -> Source:
        """A model directory; one with an adapter; a delta or adapter alone, of the base.

        base: the recipe's. Raises BadRecipe, and what opening them raises.
        """
        if reference.path in self.earlier and reference.adapter is None:
            return self.earlier[reference.path]
        if (reference, base) not in self._opened:
            self._opened[reference, base] = self._open(reference, base)
        return self._opened[reference, base]

    def _open(self, reference: Reference, base: Reference | None) -> Source:
        found = locate(reference.path, reference.revision, self._file, self._fetch)
        if reference.adapter is not None:
            adapter = locate(reference.adapter, reference.adapter_revision, self._file, self._fetch)
            model = Reference(reference.path, reference.revision)
            return Adapted(self._checkpoint(model, base), adapter)
        if not is_delta(found):
            return CheckpointSource(Checkpoint.open(found))
        if base is None or base == reference:
            raise BadRecipe(
                "a delta is merged over a base: name it as base_model, or as BASE+DELTA",
                file=self._file,
                found=str(reference),
            )
        return Adapted(self._checkpoint(base, base), found)

    def _checkpoint(self, reference: Reference, base: Reference | None) -> CheckpointSource:
        """What an adapter or a delta is applied to."""
        source = self.open(reference, base)
        if not isinstance(source, CheckpointSource):
            raise BadRecipe(
                "an adapter or a delta is applied to a model directory",
                file=self._file,
                found=str(reference),
            )
        return source
