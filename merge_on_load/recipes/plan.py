"""A recipe and its models' headers -> the jobs that make the result, and nothing left to go wrong.

What can be refused is refused here, before a byte of any tensor is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_on_load.errors import BadRecipe, MissingTensor, ShapeMismatch, UnsupportedDtype
from merge_on_load.methods import find_method
from merge_on_load.methods.method import BaseUse, Method
from merge_on_load.methods.method import Values as ValueMap
from merge_on_load.recipes import layers
from merge_on_load.recipes.document import DTYPES, LayerSlice, LayerSource, Recipe
from merge_on_load.recipes.layers import layout_of
from merge_on_load.recipes.parameters import Values, check_parameters
from merge_on_load.recipes.references import Reference
from merge_on_load.recipes.sources import WORDS, Source
from merge_on_load.specs import TensorSpec

if TYPE_CHECKING:
    from merge_on_load.recipes.reading import AnyRecipe

_WHOLE_NUMBERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")


@dataclass(frozen=True, slots=True)
class Origin:
    """A tensor of a model."""

    source: Source
    tensor: str

    @property
    def spec(self) -> TensorSpec:
        return self.source.spec(self.tensor)


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor of the result.

    method: None copies `models[0]`, of which all others must be equals: what has whole numbers is
    not merged. per_model: the values of each of `models`.
    """

    tensor: str
    spec: TensorSpec
    method: Method | None
    base: Origin | None
    models: tuple[Origin, ...]
    per_model: tuple[ValueMap, ...] = ()
    values: ValueMap = field(default_factory=dict)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """All that is read."""
        return (*([self.base] if self.base else []), *self.models)

    @property
    def words(self) -> np.dtype[Any]:
        """Of what `Out` takes: bytes where the tensor is copied."""
        return np.dtype(np.uint8 if self.method is None else WORDS[self.spec.dtype])

    @property
    def held_bytes(self) -> int:
        """Memory that the inputs take which no file can be mapped for."""
        return sum(one.source.held_bytes(one.tensor) for one in self.origins)


@dataclass(frozen=True, slots=True)
class Plan:
    """All jobs, in the order of the result's tensors, and what else the result has.

    config: of config.json, {} for models without one. primary: the model whose side files and
    config the result has. sources: all models, by what the recipe calls them. files: what the
    result has instead of the primary's side files, by name; dropped: those it must not have.
    """

    recipe: "AnyRecipe"
    jobs: tuple[Job, ...]
    config: Mapping[str, Any]
    primary: Source
    sources: Mapping[Reference, Source]
    files: Mapping[str, bytes] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """The result's tensors."""
        return {job.tensor: job.spec for job in self.jobs}

    @property
    def size_bytes(self) -> int:
        """Bytes of the result's tensors."""
        return sum(job.spec.size_bytes for job in self.jobs)


def make_plan(recipe: Recipe, sources: Mapping[Reference, Source], file: Path) -> Plan:
    """Plan a recipe. sources: an opened model for each of its references. file: for errors.

    Raises BadRecipe, MissingTensor, ShapeMismatch, UnsupportedDtype.
    """
    return _Planner(recipe, sources, file).plan()


class _Planner:
    def __init__(self, recipe: Recipe, sources: Mapping[Reference, Source], file: Path) -> None:
        self._recipe = recipe
        self._sources = sources
        self._file = file
        self._layouts = {
            one: layout_of(source.names, source.config) for one, source in sources.items()
        }
        self._method = self._find_method()
        check_parameters(recipe, self._method, file)
        self._values = Values(self._method, file)

    def plan(self) -> Plan:
        slices = self._slices()
        primary = self._recipe.references[0]
        jobs: list[Job] = []
        first, last = slices[0], slices[-1]
        jobs += self._loose(first, wants_before=True)
        number = 0
        for part in slices:
            for offset in range(_layer_count(part)):
                jobs += self._layer(part, offset, number)
                number += 1
        jobs += self._loose(last, wants_before=False)
        config = self._config(self._sources[primary].config, slices, jobs)
        return Plan(self._recipe, tuple(jobs), config, self._sources[primary], self._sources)

    def _find_method(self) -> Method:
        try:
            return find_method(self._recipe.merge_method)
        except BadRecipe as error:
            raise error.located(file=self._file) from error

    def _slices(self) -> tuple[LayerSlice, ...]:
        """The recipe's slices; `models` are one slice of all layers."""
        if self._recipe.slices is not None:
            for part in self._recipe.slices:
                self._check_range(part)
            return self._recipe.slices
        models = self._recipe.models or ()
        counts = {str(one.model): self._layouts[one.model].layer_count for one in models}
        if len(set(counts.values())) > 1:
            raise BadRecipe("models differ in layers", file=self._file, found=counts)
        sources = tuple(
            LayerSource.model_construct(
                model=one.model,
                layer_range=(0, self._layouts[one.model].layer_count),
                parameters=one.parameters,
            )
            for one in models
        )
        return (LayerSlice.model_construct(sources=sources, base_model=None, parameters={}),)

    def _check_range(self, part: LayerSlice) -> None:
        for one in part.sources:
            count = self._layouts[one.model].layer_count
            if one.layer_range[1] > count:
                raise BadRecipe(
                    f"{one.model} has {count} layers",
                    file=self._file,
                    expected=f"layer_range up to {count}",
                    found=list(one.layer_range),
                )

    def _layer(self, part: LayerSlice, offset: int, number: int) -> Iterator[Job]:
        """One layer of the result; number: its own."""
        listed = [
            (one, self._layouts[one.model].layers[one.layer_range[0] + offset])
            for one in part.sources
        ]
        base = self._base(part)
        base_names: Mapping[str, str] = {}
        if base is not None:
            own = next((one for one in part.sources if one.model == base), part.sources[0])
            base_names = self._base_layer(base, own.layer_range[0] + offset)
        last = _layer_count(part) - 1
        depth = offset / last if last else 1.0
        stack = self._layouts[part.sources[0].model].stack
        for rest, tensor in listed[0][1].items():
            models = [(one, self._named(one.model, names, rest)) for one, names in listed]
            origin = (
                None
                if base is None
                else Origin(self._sources[base], self._named(base, base_names, rest))
            )
            yield self._job(f"{stack}{number}{rest}", tensor, part, depth, origin, models)
        for one, names in listed:
            for rest in set(names) - set(listed[0][1]):
                raise MissingTensor(
                    f"{one.model} has what {part.sources[0].model} lacks",
                    file=self._sources[one.model].path,
                    tensor=names[rest],
                )

    def _base_layer(self, base: Reference, number: int) -> Mapping[str, str]:
        found = self._layouts[base].layers
        if number >= len(found):
            raise BadRecipe(
                f"base_model has {len(found)} layers", file=self._file, found=f"layer {number}"
            )
        return found[number]

    def _named(self, model: Reference, names: Mapping[str, str], rest: str) -> str:
        if rest not in names:
            raise MissingTensor(
                "a model lacks what another has",
                file=self._sources[model].path,
                tensor=f"{self._layouts[model].stack}N{rest}",
            )
        return names[rest]

    def _loose(self, part: LayerSlice, *, wants_before: bool) -> Iterator[Job]:
        """What stands before the first slice's layers, or after the last one's."""
        base = self._base(part)
        references = [one.model for one in part.sources] + ([base] if base else [])
        names = dict.fromkeys(name for one in references for name in self._layouts[one].loose)
        for name in names:
            if layers.is_before_layers(name) != wants_before:
                continue
            models = [(one, self._loose_tensor(one.model, name)) for one in part.sources]
            origin = (
                None
                if base is None
                else Origin(self._sources[base], self._loose_tensor(base, name))
            )
            yield self._job(name, name, part, 0.0, origin, models)

    def _loose_tensor(self, model: Reference, name: str) -> str:
        """The model's tensor of that name, or its embeddings for a head that is tied to them."""
        layout = self._layouts[model]
        if name in layout.depths:
            return name
        if layers.is_head(name) and (tied := layers.embedding_of(layout.loose)):
            return tied
        raise MissingTensor(
            "a model lacks what another has", file=self._sources[model].path, tensor=name
        )

    def _base(self, part: LayerSlice) -> Reference | None:
        if self._method.base is BaseUse.UNUSED:
            return None
        base = part.base_model or self._recipe.base_model
        if base is None and self._method.base is BaseUse.REQUIRED:
            raise BadRecipe(f"{self._method.name} needs a base_model", file=self._file)
        return base

    def _job(
        self,
        name: str,
        told_name: str,
        part: LayerSlice,
        depth: float,
        base: Origin | None,
        models: Sequence[tuple[LayerSource, str]],
    ) -> Job:
        """told_name: what filters look at."""
        merged = [
            (one, Origin(self._sources[one.model], tensor))
            for one, tensor in models
            if base is None or self._sources[one.model] is not base.source
        ]
        self._check_count(len(merged))
        origins = tuple(origin for _, origin in merged)
        first = base or origins[0]
        everything = (first, *origins)
        if _is_whole_numbers(everything):
            return Job(name, first.spec, None, None, everything)
        for origin in everything:
            self._check_origin(origin, first)
        levels = [part.parameters, self._recipe.parameters]
        return Job(
            name,
            TensorSpec(self._out_dtype(first.spec), first.spec.shape),
            self._method,
            base,
            origins,
            tuple(
                self._values.of(self._method.per_model, [one.parameters, *levels], told_name, depth)
                for one, _ in merged
            ),
            self._values.of(self._method.overall, levels, told_name, depth),
        )

    def _check_count(self, count: int) -> None:
        method = self._method
        if count < method.least or (method.most is not None and count > method.most):
            most = "or more" if method.most is None else f"to {method.most}"
            wanted = f"{method.least}" if method.least == method.most else f"{method.least} {most}"
            beside = "" if method.base is BaseUse.UNUSED else " beside the base"
            raise BadRecipe(
                f"{method.name} merges another number of models{beside}",
                file=self._file,
                expected=wanted,
                found=count,
            )

    def _check_origin(self, origin: Origin, first: Origin) -> None:
        if origin.spec.dtype not in WORDS:
            raise UnsupportedDtype(
                "cannot be merged",
                file=origin.source.path,
                tensor=origin.tensor,
                expected=", ".join(WORDS),
                found=origin.spec.dtype,
            )
        if origin.spec.shape != first.spec.shape:
            is_vocabulary = origin.spec.shape[1:] == first.spec.shape[1:] and (
                layers.is_head(origin.tensor) or layers.is_before_layers(origin.tensor)
            )
            raise ShapeMismatch(
                f"not as in {first.source.path}"
                + ("; `tokenizer: {source: union}` merges vocabularies" if is_vocabulary else ""),
                file=origin.source.path,
                tensor=origin.tensor,
                expected=list(first.spec.shape),
                found=list(origin.spec.shape),
            )

    def _out_dtype(self, spec: TensorSpec) -> str:
        told = self._recipe.out_dtype or self._recipe.dtype
        return DTYPES[told] if told else spec.dtype

    def _config(
        self, config: Mapping[str, Any], slices: Sequence[LayerSlice], jobs: Sequence[Job]
    ) -> dict[str, Any]:
        if not config:
            return {}
        changed = dict(config)
        if self._recipe.slices is not None:
            kept = [
                (self._sources[part.sources[0].model].config, part.sources[0].layer_range[0] + i)
                for part in slices
                for i in range(_layer_count(part))
            ]
            changed = layers.with_layers(config, kept)
        if told := self._recipe.out_dtype or self._recipe.dtype:
            changed["dtype" if "dtype" in config else "torch_dtype"] = told
        heads = [job for job in jobs if layers.is_head(job.tensor)]
        was_tied = any(one.tensor != job.tensor for job in heads for one in job.origins)
        if heads and (was_tied or config.get("tie_word_embeddings")):
            changed["tie_word_embeddings"] = False
        return changed


def _layer_count(part: LayerSlice) -> int:
    first, last = part.sources[0].layer_range
    return last - first


def _is_whole_numbers(origins: Sequence[Origin]) -> bool:
    return all(one.spec.dtype in _WHOLE_NUMBERS for one in origins)
