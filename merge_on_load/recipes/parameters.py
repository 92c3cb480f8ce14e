"""A method's parameters in a recipe: all known, and each of the kind that the method wants."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from merge_on_load.errors import BadRecipe
from merge_on_load.methods.method import Method, Parameter, Value
from merge_on_load.recipes.document import Recipe
from merge_on_load.recipes.settings import Settings, first_value

_WITHOUT_EFFECT = ("int8_mask",)  # saves mergekit memory that is not needed here


def check_parameters(recipe: Recipe, method: Method, file: Path) -> None:
    """See that each parameter is one of the method's, where it has an effect. Raises BadRecipe."""
    for place, told, is_of_one_model in _places(recipe):
        known = {one.name for one in method.per_model}
        if not is_of_one_model:
            known |= {one.name for one in method.overall}
        for name in told:
            if name not in known and name not in _WITHOUT_EFFECT:
                raise BadRecipe(
                    f"{method.name} has no parameter of that name, {place}",
                    file=file,
                    expected=", ".join(sorted(known)) or "none",
                    found=name,
                )


class Values:
    """Resolves the parameters of one recipe, tensor by tensor."""

    def __init__(self, method: Method, file: Path) -> None:
        """file: for errors."""
        self._method = method
        self._file = file

    def of(
        self,
        parameters: Sequence[Parameter],
        levels: Sequence[Settings],
        tensor: str,
        depth: float,
    ) -> dict[str, Value]:
        """Each parameter's value: of the first level that has one, or its default.

        Raises BadRecipe for one that is needed and not there, or of another kind.
        """
        values: dict[str, Value] = {}
        for one in parameters:
            found = first_value(levels, one.name, tensor, depth)
            if found is None and one.required:
                raise BadRecipe(
                    f"{self._method.name} needs {one.name!r} for every tensor",
                    file=self._file,
                    tensor=tensor,
                )
            values[one.name] = one.default if found is None else self._of_kind(one, found)
        return values

    def _of_kind(self, parameter: Parameter, found: float | bool) -> Value:
        is_flag = parameter.kind is bool
        is_fitting = isinstance(found, bool) == is_flag
        if parameter.kind is int:
            is_fitting = is_fitting and float(found).is_integer()
        if not is_fitting:
            raise BadRecipe(
                f"{parameter.name} is of another kind",
                file=self._file,
                expected=parameter.kind.__name__,
                found=found,
            )
        return parameter.kind(found)


def _places(recipe: Recipe) -> Iterator[tuple[str, Settings, bool]]:
    """Where parameters stand, what they are, and whether they are one model's."""
    yield "in parameters", recipe.parameters, False
    for one in recipe.models or ():
        yield f"in models: {one.model}", one.parameters, True
    for i, part in enumerate(recipe.slices or ()):
        yield f"in slices[{i}].parameters", part.parameters, False
        for source in part.sources:
            yield f"in slices[{i}].sources: {source.model}", source.parameters, True
