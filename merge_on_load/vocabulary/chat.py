"""The chat template of the result."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from merge_on_load.errors import BadRecipe
from merge_on_load.vocabulary.templates import TEMPLATES
from merge_on_load.vocabulary.tokenizer_file import (
    CONFIG_NAME,
    parse_object,
    read_object,
    write_object,
)

if TYPE_CHECKING:
    from merge_on_load.recipes.sources import Source

TEMPLATE_NAME = "chat_template.jinja"
_AUTO = "auto"


def chat_template_files(
    told: str, models: Sequence["Source"], files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Files of the result that are new or change with its chat template.

    told: `auto`, which is the template that most of the models have, of equally many the first
    model's; a name in TEMPLATES; or a Jinja2 template. models: the recipe's, in its order. files:
    the result's so far, by name, of which a tokenizer_config.json loses the template it has.
    Raises BadRecipe: no model has a template, no such name, not Jinja2.
    """
    template = _most_common(models) if told == _AUTO else TEMPLATES.get(told, told)
    if told != _AUTO and told not in TEMPLATES:
        _check(told)
    changed = {TEMPLATE_NAME: template.encode()}
    if CONFIG_NAME in files:
        config = parse_object(files[CONFIG_NAME], CONFIG_NAME)
        if config.pop("chat_template", None) is not None:
            changed[CONFIG_NAME] = write_object(config)
    return changed


def _most_common(models: Sequence["Source"]) -> str:
    found = [one for one in map(_template, models) if one is not None]
    if not found:
        raise BadRecipe(
            "chat_template: auto takes the most common one, and no model has a chat template",
            found=", ".join(str(one.path) for one in models),
        )
    return Counter(found).most_common(1)[0][0]  # of equals the first


def _template(source: "Source") -> str | None:
    """A model's; where it has several by name, the default one."""
    if file := source.side_files.get(TEMPLATE_NAME):
        return file.read_text(encoding="utf-8")
    told: Any = read_object(source.side_files.get(CONFIG_NAME)).get("chat_template")
    if isinstance(told, list):
        named = {one.get("name"): one.get("template") for one in told if isinstance(one, dict)}
        told = named.get("default")
    return told if isinstance(told, str) else None


def _check(template: str) -> None:
    if "{{" not in template and "{%" not in template:
        raise BadRecipe(
            "chat_template is neither a name nor a Jinja2 template",
            expected=", ".join((_AUTO, *TEMPLATES)),
            found=template,
        )
    from merge_on_load.vocabulary.jinja import syntax_error  # here: a slow import, seldom needed

    if (problem := syntax_error(template)) is not None:
        raise BadRecipe(f"chat_template is no Jinja2 template: {problem}")
