"""A recipe's file -> a checkpoint, or a stream of tensors: the face of this package."""

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from merge_on_load.aside import check_output_apart
from merge_on_load.checkpoint import Checkpoint
from merge_on_load.checkpoint_writer import CheckpointWriter
from merge_on_load.errors import BadRecipe, MissingTensor, ShapeMismatch
from merge_on_load.methods.method import Out
from merge_on_load.moe import MoeRecipe, make_moe_plan
from merge_on_load.progress import Progress, silent
from merge_on_load.recipes import execute
from merge_on_load.recipes.lineage import LINEAGE_NAME, of_merge
from merge_on_load.recipes.models import Models
from merge_on_load.recipes.plan import Job, Plan, make_plan
from merge_on_load.recipes.reading import AnyRecipe, in_order, read_recipes
from merge_on_load.recipes.references import Fetch, Reference
from merge_on_load.recipes.sources import Source
from merge_on_load.specs import Bytes, TensorSpec
from merge_on_load.tensor_out import MemoryOut, TensorOut
from merge_on_load.vocabulary import chat_template_files, make_vocabulary


class Merged:
    """A recipe, planned: its headers were read and nothing was computed yet. Itself a `Source`.

    A tensor is computed when it is asked for, in memory of its size.
    """

    def __init__(self, file: Path, plan: Plan, *, seed: int = 0, allow_nan: bool = False) -> None:
        """Use `Merged.open`."""
        self.path = file
        self.plan = plan
        self.seed = seed
        self.allow_nan = allow_nan
        self.config = plan.config
        self._made = _MadeFiles(plan.files) if plan.files else None
        self.side_files = {
            name: path
            for name, path in plan.primary.side_files.items()
            if name not in plan.dropped and name not in ("config.json", LINEAGE_NAME)
        } | (self._made.paths if self._made else {})
        self.lineage = of_merge(plan, seed)
        self._jobs = {job.tensor: job for job in plan.jobs}

    @classmethod
    def open(
        cls, file: Path, *, seed: int = 0, allow_nan: bool = False, fetch: Fetch | None = None
    ) -> "Merged":
        """Read a file's documents, open what they name, plan the one that no other uses.

        seed: of random numbers. allow_nan: let NaN and infinity through. fetch: see `locate`.
        Raises BadRecipe, and what opening the models raises.
        """
        models = Models(Path(file), fetch)
        for recipe in in_order(read_recipes(Path(file)), Path(file)):
            sources = {one: models.open(one, recipe.base_model) for one in recipe.references}
            try:
                plan = _planned(recipe, sources, Path(file), seed)
            except BadRecipe as error:
                raise error.located(file=file) from error
            merged = cls(Path(file), plan, seed=seed, allow_nan=allow_nan)
            if recipe.name is not None:
                models.earlier[recipe.name] = merged
        return merged

    @property
    def paths(self) -> tuple[Path, ...]:
        """The recipe's file, and what its models are read from."""
        below = (path for source in self.plan.sources.values() for path in source.paths)
        return tuple(dict.fromkeys((self.path, *below)))

    @property
    def size_bytes(self) -> int:
        """Bytes of the result's tensors: what a specialist of it takes in memory."""
        return self.plan.size_bytes

    def stored_size_bytes(self, base: Checkpoint) -> int:
        """Bytes on disk that only the recipe needs: itself and its models, without the base."""
        paths = {one.resolve() for one in self.paths} - {base.path.resolve()}
        files = [one for path in paths for one in (path.rglob("*") if path.is_dir() else [path])]
        return sum(one.stat().st_size for one in files if one.is_file())

    def fingerprint(self) -> str:
        """Identity of the result: recipe, seed and all weights that go in, which it reads."""
        weights = {str(one): source.fingerprint() for one, source in self.plan.sources.items()}
        told = [self.plan.recipe.digest(), self.seed, sorted(weights.items())]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def check_belongs(self, base: Checkpoint) -> None:
        """See that the result has the base's tensors. Raises MissingTensor, ShapeMismatch."""
        for name in set(self.names) ^ set(base.names):
            raise MissingTensor("recipe and base name other tensors", file=self.path, tensor=name)
        for name in self.names:
            expected, found = base.spec(name).shape, self.spec(name).shape
            if expected != found:
                raise ShapeMismatch(
                    "the recipe makes another shape",
                    file=self.path,
                    tensor=name,
                    expected=list(expected),
                    found=list(found),
                )

    @property
    def names(self) -> list[str]:
        """The result's tensors."""
        return list(self._jobs)

    def spec(self, name: str) -> TensorSpec:
        """dtype and shape of a tensor of the result."""
        return self._jobs[name].spec

    def raw(self, name: str) -> Bytes:
        """The bytes of a tensor of the result, [size_bytes], computed now. Raises MergeError."""
        job = self._jobs[name]
        found = np.empty(job.spec.size_bytes, np.uint8)
        execute.run_job(
            job, MemoryOut(found.view(job.words)), seed=self.seed, allow_nan=self.allow_nan
        )
        return found

    def write(
        self,
        out_of: Callable[[Job], Out],
        *,
        done: Callable[[Job], None] | None = None,
        threads: int | None = None,
    ) -> None:
        """Compute all tensors on threads, each into its job's `Out`. As `execute.run`."""
        execute.run(
            self.plan,
            out_of,
            seed=self.seed,
            allow_nan=self.allow_nan,
            done=done,
            threads=threads,
        )

    def held_bytes(self, name: str) -> int:
        """The tensor itself, and what its own inputs hold."""
        job = self._jobs[name]
        return job.spec.size_bytes + job.held_bytes

    def release(self, name: str) -> None:
        """Nothing is kept."""

    def texts(self) -> dict[str, bytes]:
        """The files that the result has beside its tensors and side files, by name."""
        found = {LINEAGE_NAME: (json.dumps(self.lineage, indent=1) + "\n").encode()}
        if self.config:
            found["config.json"] = (json.dumps(self.config, indent=2) + "\n").encode()
        return found


def merge(
    recipe: Path,
    out: Path,
    *,
    seed: int = 0,
    allow_nan: bool = False,
    fetch: Fetch | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Write a recipe's result as a Hugging Face checkpoint directory.

    seed: of random numbers; the same recipe and seed give the same bytes, whatever the number of
    threads. fetch: see `locate`. progress: called with done and total bytes of the result.
    Raises MergeError; then, and after a kill, nothing stands under `out`.
    """
    merged = Merged.open(recipe, seed=seed, allow_nan=allow_nan, fetch=fetch)
    inputs = {one.source.path for job in merged.plan.jobs for one in job.origins}
    check_output_apart(Path(out), inputs)
    with CheckpointWriter.open(out, merged.plan.specs, overwrite=overwrite) as writer:
        _write(merged, writer, threads, progress or silent)
    return merged.plan


def _write(merged: Merged, writer: CheckpointWriter, threads: int | None, told: Progress) -> None:
    total, finished = merged.plan.size_bytes, 0

    def done(job: Job) -> None:
        nonlocal finished
        writer.written(job.tensor)
        finished += job.spec.size_bytes
        told(finished, total)

    merged.write(
        lambda job: TensorOut(*writer.place(job.tensor), job.words, job.spec.size_bytes),
        done=done,
        threads=threads,
    )
    for name, source in merged.side_files.items():
        writer.add_file(name, source)
    for name, content in merged.texts().items():
        writer.add_text(name, content)


class _MadeFiles:
    """Side files that a recipe makes, on a disk for as long as this lives."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        directory = tempfile.mkdtemp(prefix="deltafleet-recipe-")
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self.paths = {name: Path(directory) / name for name in files}
        for name, content in files.items():
            self.paths[name].write_bytes(content)


def _planned(recipe: AnyRecipe, sources: Mapping[Reference, Source], file: Path, seed: int) -> Plan:
    """An assembly of experts; or a merge, its models' vocabularies brought together first where
    the recipe says so.
    """
    if isinstance(recipe, MoeRecipe):
        return make_moe_plan(recipe, sources, file, seed=seed)
    if recipe.vocabulary is None:
        plan = make_plan(recipe, sources, file)
    else:
        vocabulary = make_vocabulary(recipe.vocabulary, recipe.base_model, sources)
        revised = {one: vocabulary.revised(one, source) for one, source in sources.items()}
        plan = make_plan(recipe, revised, file)
        plan = replace(
            plan,
            config=_changed(plan.config, vocabulary.config),
            files=vocabulary.files,
            dropped=vocabulary.dropped,
        )
    if recipe.chat_template is not None:
        name = "tokenizer_config.json"
        own = plan.primary.side_files.get(name)
        files = {**({name: own.read_bytes()} if own else {}), **plan.files}
        told = chat_template_files(recipe.chat_template, list(sources.values()), files)
        plan = replace(plan, files={**plan.files, **told})
    return plan


def _changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config with changes, those of a config inside it among them."""
    inside = {key: {**config[key], **one} for key, one in changes.items() if isinstance(one, dict)}
    return {**config, **changes, **inside}
