"""A recipe's YAML as frozen values; whatever is not known here is refused.

The form is mergekit's, https://github.com/arcee-ai/mergekit#merge-configuration: `models`, or
`slices` of layers; several documents in one file, where a later one may use an earlier one by its
name (https://github.com/arcee-ai/mergekit/blob/main/docs/multimerge.md).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from merge_on_load.errors import BadRecipe
from merge_on_load.recipes import settings
from merge_on_load.recipes.references import Reference

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # safetensors' names


T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """A mapping of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def _reference(told: object) -> Reference:
    return told if isinstance(told, Reference) else Reference.parse(told)


def _settings(told: object) -> object:
    if told is None:
        return {}
    if isinstance(told, dict):
        for name, setting in told.items():
            if problem := settings.check(setting):
                raise ValueError(f"{name}: {problem}")
    return told


ModelName = Annotated[Reference, BeforeValidator(_reference), PlainSerializer(str)]
Parameters = Annotated[dict[str, Any], BeforeValidator(_settings)]
Dtype = Literal["float32", "float16", "bfloat16"]


class InputModel(Section):
    """One of `models`: all its layers."""

    model: ModelName
    parameters: Parameters = {}


class LayerSource(Section):
    """Layers [first, last) of one model."""

    model: ModelName
    layer_range: tuple[int, int]
    parameters: Parameters = {}

    @model_validator(mode="after")
    def _check(self) -> "LayerSource":
        first, last = self.layer_range
        if not 0 <= first < last:
            raise ValueError(f"layer_range is [first, last), so [{first}, {last}] has no layers")
        return self


class LayerSlice(Section):
    """As many layers of the result as each of its sources has, merged one by one."""

    sources: tuple[LayerSource, ...] = Field(min_length=1)
    base_model: ModelName | None = None
    parameters: Parameters = {}

    @model_validator(mode="after")
    def _check(self) -> "LayerSlice":
        counts = {last - first for first, last in (one.layer_range for one in self.sources)}
        if len(counts) > 1:
            raise ValueError(f"the sources of one slice have {sorted(counts)} layers, not as many")
        return self


class TokenPlace(Section):
    """A token of a model: by its text, or by its number."""

    kind: Literal["model_token"] = "model_token"
    model: ModelName
    token: str | None = None
    token_id: int | None = None

    @model_validator(mode="after")
    def _check(self) -> "TokenPlace":
        if (self.token is None) == (self.token_id is None):
            raise ValueError("either token or token_id")
        return self


class NoToken(Section):
    """An embedding of zeros."""

    kind: Literal["zero"]


class Token(Section):
    """Where a token's embedding comes from. None: as for all other tokens.

    force: for all models, those too that have the token themselves.
    """

    source: TokenPlace | NoToken | ModelName | None = None
    force: bool = False


class Tokenizer(Section):
    """The result's vocabulary: `union`, `base`, or that of a model."""

    source: Literal["union", "base"] | ModelName = "union"
    tokens: dict[str, Token] = {}
    pad_to_multiple_of: int | None = Field(None, ge=1)


class Recipe(Section):
    """One document."""

    merge_method: str
    name: str | None = None
    models: tuple[InputModel, ...] | None = Field(None, min_length=1)
    slices: tuple[LayerSlice, ...] | None = Field(None, min_length=1)
    base_model: ModelName | None = None
    parameters: Parameters = {}
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer: Tokenizer | None = None
    tokenizer_source: Literal["union", "base"] | ModelName | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if (self.models is None) == (self.slices is None):
            raise ValueError("either models or slices")
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("either tokenizer or tokenizer_source")
        return self

    @property
    def vocabulary(self) -> Tokenizer | None:
        """`tokenizer`, or what `tokenizer_source` means."""
        if self.tokenizer_source is not None:
            return Tokenizer(source=self.tokenizer_source)
        return self.tokenizer

    @property
    def references(self) -> tuple[Reference, ...]:
        """Every model that is merged, each once. The first one's config and side files are the
        result's: the base, or the first that is listed.
        """
        listed = [self.base_model] if self.base_model else []
        listed += [one.model for one in self.models or ()]
        for part in self.slices or ():
            listed += [one.model for one in part.sources]
            listed += [part.base_model] if part.base_model else []
        return tuple(dict.fromkeys(listed))

    def digest(self) -> str:
        """SHA-256 of what the document says, hex: of its meaning, not of its spelling."""
        told = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file as mappings. Raises BadRecipe."""
    try:
        documents = list(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader))
    except OSError as error:
        raise BadRecipe(f"cannot be read: {error.strerror}", file=path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipe(f"not YAML: {error}", file=path) from error
    found = [one for one in documents if one is not None]
    for one in found:
        if not isinstance(one, dict):
            raise BadRecipe("a recipe is a mapping", file=path, found=type(one).__name__)
    if not found:
        raise BadRecipe("no recipe in it", file=path)
    return found


def parse(kind: type[T], told: Mapping[str, Any], path: Path) -> T:
    """One document. Raises BadRecipe with everything that is wrong with it."""
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        raise BadRecipe("; ".join(_problems(error)), file=path) from error


def _problems(error: ValidationError) -> Iterable[str]:
    for one in error.errors(include_url=False):
        place = ".".join(str(part) for part in one["loc"])
        yield f"{place}: {one['msg']}" if place else str(one["msg"])
