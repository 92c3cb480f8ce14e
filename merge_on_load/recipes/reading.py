"""A file's documents: merges, and assemblies of experts, in the order in which they are needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from merge_on_load.errors import BadRecipe
from merge_on_load.moe.document import MoeRecipe
from merge_on_load.recipes.document import Recipe, parse, read_documents

AnyRecipe = Recipe | MoeRecipe


def read_recipes(file: Path) -> list[AnyRecipe]:
    """A file's recipes in its order. Raises BadRecipe."""
    found: list[AnyRecipe] = [
        parse(MoeRecipe, told, file) if "experts" in told else parse(Recipe, told, file)
        for told in read_documents(file)
    ]
    _check_names(found, file)
    return found


def in_order(recipes: Sequence[AnyRecipe], file: Path) -> list[AnyRecipe]:
    """Each after those that it uses, the result last.

    Raises BadRecipe: a circle, more than one result, a document that the result does not use.
    """
    by_name = {one.name: one for one in recipes if one.name is not None}
    used = {one.path for recipe in recipes for one in recipe.references}
    unnamed = [one for one in recipes if one.name is None]
    ends = unnamed or [one for one in recipes if one.name not in used]
    if len(ends) > 1:
        raise BadRecipe(
            "one document is the result: the one without a name, or the only one that none uses",
            file=file,
            found=[one.name for one in ends],
        )
    ordered: list[AnyRecipe] = []
    for one in ends or recipes[:1]:  # without an end all are in circles: the visit finds one
        _visit(one, by_name, ordered, (), file)
    if left := [one.name for one in recipes if one not in ordered]:
        raise BadRecipe("documents that the result does not use", file=file, found=left)
    return ordered


def _visit(
    recipe: AnyRecipe,
    by_name: Mapping[str, AnyRecipe],
    ordered: list[AnyRecipe],
    above: tuple[str | None, ...],
    file: Path,
) -> None:
    if recipe.name is not None and recipe.name in above:
        raise BadRecipe("documents that use each other", file=file, found=list(above))
    if recipe in ordered:
        return
    for one in recipe.references:
        if one.path in by_name and one.adapter is None:
            _visit(by_name[one.path], by_name, ordered, (*above, recipe.name), file)
    ordered.append(recipe)


def _check_names(recipes: Sequence[AnyRecipe], file: Path) -> None:
    names = [one.name for one in recipes]
    if names.count(None) > 1:
        raise BadRecipe("only one document may have no name: the result", file=file)
    for name in names:
        if names.count(name) > 1:
            raise BadRecipe("two documents have one name", file=file, found=name)
