"""The YAML of an assembly as frozen values; whatever is not known here is refused."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, model_validator

from merge_on_load.recipes.document import Dtype, ModelName, Section
from merge_on_load.recipes.references import Reference

Prompt = Annotated[str, Field(min_length=1)]
GateMode = Literal["hidden", "cheap_embed", "random", "uniform_random"]
Architecture = Literal["mixtral", "qwen", "deepseek"]


class Expert(Section):
    """A model whose MLPs become one expert of each layer.

    positive_prompts: what it is to be chosen for. negative_prompts: what it is not.
    """

    source_model: ModelName
    positive_prompts: tuple[Prompt, ...] = ()
    negative_prompts: tuple[Prompt, ...] = ()


class SharedExpert(Section):
    """An expert that every token passes. residual_scale: what its output is multiplied by."""

    source_model: ModelName
    positive_prompts: tuple[Prompt, ...] = ()
    residual_scale: float | None = Field(None, allow_inf_nan=False)


class MoeRecipe(Section):
    """One document. dtype None: that of the base. architecture None: as the models suggest.

    Prompts stand beside a random gate_mode without effect, so that the mode alone can be changed.
    """

    base_model: ModelName
    experts: tuple[Expert, ...] = Field(min_length=1)
    shared_experts: tuple[SharedExpert, ...] = ()
    gate_mode: GateMode = "hidden"
    dtype: Dtype | None = None
    experts_per_token: int = Field(2, ge=1)
    architecture: Architecture | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "MoeRecipe":
        if len(self.shared_experts) > 1:
            raise ValueError(f"{len(self.shared_experts)} shared_experts: at most one is possible")
        if self.experts_per_token > len(self.experts):
            raise ValueError(
                f"experts_per_token is {self.experts_per_token} of {len(self.experts)} experts"
            )
        lacking = [str(one.source_model) for one in self.experts if not one.positive_prompts]
        if self.uses_prompts and lacking:
            raise ValueError(
                f"gate_mode {self.gate_mode} needs positive_prompts for every expert;"
                f" none for {', '.join(lacking)}"
            )
        return self

    @property
    def uses_prompts(self) -> bool:
        """Whether gates are made from prompts."""
        return self.gate_mode in ("hidden", "cheap_embed")

    @property
    def shared_expert(self) -> SharedExpert | None:
        """The one of `shared_experts`."""
        return next(iter(self.shared_experts), None)

    @property
    def merge_method(self) -> str:
        """What the lineage calls an assembly."""
        return "moe"

    @property
    def references(self) -> tuple[Reference, ...]:
        """Every model that is used, each once, the base first."""
        experts = [one.source_model for one in self.experts]
        shared = [one.source_model for one in self.shared_experts]
        return tuple(dict.fromkeys((self.base_model, *experts, *shared)))

    def digest(self) -> str:
        """SHA-256 of what the document says, hex: of its meaning, not of its spelling."""
        told = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
