"""What a recipe says a parameter is: for all tensors, by depth, or by the tensor's name.

mergekit's three forms, https://github.com/arcee-ai/mergekit#parameter-specification:

    weight: 0.5                     # everywhere
    weight: [0, 0.5, 1]             # a gradient: spread evenly over depth, straight lines between
    weight:                         # the first whose filter is part of the tensor's name
      - {filter: mlp, value: [0, 1]}
      - {value: 0.5}                # for all others
"""

from collections.abc import Mapping, Sequence

Scalar = float | int | bool
Setting = Scalar | Sequence["Scalar | Mapping[str, object]"]
Settings = Mapping[str, object]


def check(setting: object) -> str | None:
    """What is wrong with a setting as YAML gives it; None if nothing is."""
    if _is_scalar(setting):
        return None
    if not isinstance(setting, list) or not setting:
        return f"must be a number, a list of numbers or a list of filters, not {setting!r}"
    if all(_is_scalar(one) for one in setting):
        return _check_gradient(setting)
    for one in setting:
        if problem := _check_filter(one):
            return problem
    return None


def value_of(setting: object, tensor: str, depth: float) -> Scalar | None:
    """The value for one tensor; None where no filter fits it.

    setting: one that `check` finds nothing wrong with. depth: 0 (first layer, and what is
    outside of all) to 1 (last layer).
    """
    if not isinstance(setting, list):
        return setting  # type: ignore[return-value]  # a scalar: checked
    if _is_scalar(setting[0]):
        return _interpolated(setting, depth)
    for one in setting:
        wanted = one.get("filter")
        if wanted is None or wanted == "*" or wanted in tensor:
            return value_of(one["value"], tensor, depth)
    return None


def first_value(levels: Sequence[Settings], name: str, tensor: str, depth: float) -> Scalar | None:
    """The value at the first of these levels that has one for this tensor."""
    for level in levels:
        if name in level:
            found = value_of(level[name], tensor, depth)
            if found is not None:
                return found
    return None


def _interpolated(values: Sequence[float], depth: float) -> Scalar:
    place = depth * (len(values) - 1)
    left = min(int(place), len(values) - 1)
    right = min(left + 1, len(values) - 1)
    share = place - left
    if share == 0 or left == right:
        return values[left]
    return (1 - share) * values[left] + share * values[right]


def _check_gradient(values: list[object]) -> str | None:
    if len(values) > 1 and any(isinstance(one, bool) for one in values):
        return "a gradient is of numbers: true and false have nothing between them"
    return None


def _check_filter(one: object) -> str | None:
    if not isinstance(one, dict) or "value" not in one or set(one) - {"filter", "value"}:
        return f"an entry has `value`, and `filter` unless it is for all others, not {one!r}"
    if not isinstance(one.get("filter", ""), str):
        return f"a filter is a part of a tensor's name, not {one['filter']!r}"
    return check(one["value"])


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float)
