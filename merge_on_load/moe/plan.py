"""An assembly's recipe and its models' headers -> the jobs that make the sparse model.

What can be refused is refused here, before a byte of any tensor is read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from merge_on_load.errors import BadRecipe, UnsupportedDtype
from merge_on_load.methods import find_method
from merge_on_load.moe.config import sparse_config
from merge_on_load.moe.dense import (
    EMBEDDING,
    HEAD,
    NORM,
    Dense,
    check_base,
    check_expert,
    layer_tensor,
    mlp_part,
    read_dense,
)
from merge_on_load.moe.document import MoeRecipe
from merge_on_load.moe.families import MLP_PARTS, QWEN2_MOE, Family, family_of
from merge_on_load.moe.made import Gate, Gates, Mode, Zeros
from merge_on_load.moe.modes import EmbeddingMode, HiddenMode, RandomMode
from merge_on_load.moe.prompts import Prompts
from merge_on_load.moe.tokens import check_vocabulary
from merge_on_load.recipes.document import DTYPES
from merge_on_load.recipes.plan import Job, Origin, Plan
from merge_on_load.recipes.references import Reference
from merge_on_load.recipes.sources import WORDS, Source
from merge_on_load.specs import TensorSpec

# Qwen2-MoE always has a shared expert. One of zeros adds nothing; this is as narrow as matrix
# kernels, and a split over eight devices, put up with.
ABSENT_SHARED_WIDTH = 128


def make_moe_plan(
    recipe: MoeRecipe, sources: Mapping[Reference, Source], file: Path, *, seed: int = 0
) -> Plan:
    """Plan an assembly. sources: an opened model for each of the recipe's references.

    file: for errors. seed: of gate_mode `random`. Prompts are run, or their embeddings read, when
    the first gate is asked for.
    Raises BadRecipe, MissingTensor, ShapeMismatch, UnsupportedDtype.
    """
    return _Planner(recipe, sources, file, seed).plan()


class _Planner:
    def __init__(
        self, recipe: MoeRecipe, sources: Mapping[Reference, Source], file: Path, seed: int
    ) -> None:
        self._recipe = recipe
        self._sources = sources
        self._file = file
        dense = {one: read_dense(sources[one]) for one in recipe.references}
        self._base = dense[recipe.base_model]
        self._family = family_of(recipe, self._base.model_type)
        self._experts = [dense[one.source_model] for one in recipe.experts]
        shared = recipe.shared_expert
        self._shared = None if shared is None else dense[shared.source_model]
        check_base(self._base, self._family)
        for one in dense.values():
            check_expert(self._base, one)
            check_vocabulary(self._base, one)
        _check_shared(recipe, self._family, file)
        self._gates = self._make_gates(seed)

    def plan(self) -> Plan:
        jobs = [self._keep(EMBEDDING)]
        for layer in range(len(self._base.layers)):
            jobs += self._layer(layer)
        jobs += [self._keep(name) for name in (NORM, HEAD) if name in self._base.loose]
        config = sparse_config(
            self._family,
            self._base,
            expert_count=len(self._experts),
            experts_per_token=self._recipe.experts_per_token,
            shared_width=self._shared_width,
            dtype=self._recipe.dtype,
            file=self._file,
        )
        return Plan(self._recipe, tuple(jobs), config, self._base.source, self._sources)

    def _layer(self, layer: int) -> Iterator[Job]:
        family = self._family
        for rest in (*family.needed, *family.optional):
            if rest in self._base.layers[layer]:
                yield self._keep(layer_tensor(layer, rest))
        yield self._made(layer_tensor(layer, family.router))
        for number, expert in enumerate(self._experts):
            for part in MLP_PARTS:
                name = layer_tensor(layer, family.expert(number, part))
                yield self._copy(name, expert, layer_tensor(layer, mlp_part(part)))
        if self._shared_width is not None:
            yield from self._shared_layer(layer)

    def _shared_layer(self, layer: int) -> Iterator[Job]:
        """The shared expert, or zeros in its place, and its gate."""
        shared, family = self._recipe.shared_expert, self._family
        for part in MLP_PARTS:
            name = layer_tensor(layer, family.shared_expert(part))
            if shared is None or self._shared is None:
                yield self._made(name)
                continue
            # the last of the three, so that all of the output is scaled
            scale = shared.residual_scale if part == "down_proj" else None
            yield self._copy(name, self._shared, layer_tensor(layer, mlp_part(part)), scale)
        if family.shared_gate is not None:
            yield self._made(layer_tensor(layer, family.shared_gate))

    @property
    def _width(self) -> tuple[int, ...]:
        """[intermediate_size, hidden_size]."""
        return self._base.shape(layer_tensor(0, mlp_part("gate_proj")))

    @property
    def _shared_width(self) -> int | None:
        """Of the result's shared expert, None where it has none."""
        if self._shared is not None:
            return self._width[0]
        return ABSENT_SHARED_WIDTH if self._family == QWEN2_MOE else None

    def _keep(self, name: str) -> Job:
        """A tensor of the base, under its own name."""
        return self._copy(name, self._base, name)

    def _copy(self, name: str, model: Dense, tensor: str, scale: float | None = None) -> Job:
        """A model's tensor under a new name, in the dtype of the result."""
        origin = Origin(model.source, tensor)
        if origin.spec.dtype not in WORDS:
            raise UnsupportedDtype(
                "cannot be assembled",
                file=model.source.path,
                tensor=tensor,
                expected=", ".join(WORDS),
                found=origin.spec.dtype,
            )
        return Job(
            name,
            TensorSpec(self._dtype(tensor), origin.spec.shape),
            find_method("passthrough"),
            None,
            (origin,),
            ({"scale": scale},),
        )

    def _dtype(self, tensor: str) -> str:
        if self._recipe.dtype is not None:
            return DTYPES[self._recipe.dtype]
        return self._base.source.spec(tensor).dtype

    def _made(self, name: str) -> Job:
        return Job(name, self._gates.spec(name), None, None, (Origin(self._gates, name),))

    def _make_gates(self, seed: int) -> Gates:
        mode = self._mode(seed)
        made = []
        for layer in range(len(self._base.layers)):
            shape = (len(self._experts), self._width[1])
            router = layer_tensor(layer, self._family.router)
            made.append((Gate(router, layer, False, shape), mode))
            made += self._shared_gates(layer, mode)
        dtype = self._dtype(layer_tensor(0, mlp_part("gate_proj")))
        return Gates(self._base.source.path, dtype, made)

    def _shared_gates(self, layer: int, mode: Mode) -> Iterator[tuple[Gate, Mode]]:
        """Of Qwen2-MoE; without a shared expert its parts too."""
        family, hidden_size = self._family, self._width[1]
        if family.shared_gate is None:
            return
        name = layer_tensor(layer, family.shared_gate)
        yield Gate(name, layer, True, (1, hidden_size)), Zeros() if self._shared is None else mode
        if self._shared is None:
            for part in MLP_PARTS:
                shape = (ABSENT_SHARED_WIDTH, hidden_size)
                name = layer_tensor(layer, family.shared_expert(part))
                shape = shape[::-1] if part == "down_proj" else shape
                yield Gate(name, layer, True, shape), Zeros()

    def _mode(self, seed: int) -> Mode:
        recipe, source = self._recipe, self._base.source
        if recipe.gate_mode == "uniform_random":
            return RandomMode(seed, None)
        if recipe.gate_mode == "random":
            return RandomMode(seed, self._base.config.get("initializer_range", 0.02))
        prompts = [
            Prompts(str(one.source_model), one.positive_prompts, one.negative_prompts)
            for one in recipe.experts
        ]
        shared = recipe.shared_expert
        if shared is not None and self._family.shared_gate is not None:
            prompts.append(Prompts(str(shared.source_model), shared.positive_prompts))
        if recipe.gate_mode == "cheap_embed":
            return EmbeddingMode(source, prompts, len(recipe.experts))
        return HiddenMode(source, prompts, len(recipe.experts), len(self._base.layers))


def _check_shared(recipe: MoeRecipe, family: Family, file: Path) -> None:
    """A shared expert has a place, and prompts where its gate is made from them.

    Prompts of one without a gate are refused, those beside a random gate are not.
    """
    shared = recipe.shared_expert
    if shared is None:
        return
    named = str(shared.source_model)
    if family.shared is None:
        raise BadRecipe(f"{family.class_name} has no shared expert", file=file, found=named)
    if family.shared_gate is None and shared.positive_prompts:
        raise BadRecipe(
            f"{family.class_name} has no gate for its shared expert, whose positive_prompts have"
            " no use",
            file=file,
            found=named,
        )
    if family.shared_gate is not None and recipe.uses_prompts and not shared.positive_prompts:
        raise BadRecipe(
            f"{family.class_name} needs positive_prompts for the gate of its shared expert",
            file=file,
            found=named,
        )
