"""Parameters as a recipe gives them, checked."""

import math

from merge_on_load.methods.method import Parameter, Values

WEIGHT = Parameter("weight", required=True)
DENSITY = Parameter("density", default=1.0)
LAMBDA = Parameter("lambda", default=1.0)
INT8_MASK = Parameter("int8_mask", bool, default=False)  # a matter of mergekit's memory: no effect


def normalize(default: bool) -> Parameter:
    """Whether to divide by the sum of the weights, which methods differ about."""
    return Parameter("normalize", bool, default=default)


def rescale(default: bool) -> Parameter:
    """Whether what pruning leaves makes up for what it takes, which methods differ about."""
    return Parameter("rescale", bool, default=default)


def number(
    values: Values, parameter: Parameter, low: float = -math.inf, high: float = math.inf
) -> float:
    """The parameter's value or default. Raises ValueError outside [low, high] and for NaN."""
    found = values.get(parameter.name, parameter.default)
    if found is None:
        raise ValueError(f"{parameter.name} is missing")
    if not math.isfinite(found) or not low <= found <= high:
        raise ValueError(f"{parameter.name} is {found}: not {_range(low, high)}")
    return float(found)


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if math.isinf(high):
        return f"a finite number of at least {low:g}"
    return f"between {low:g} and {high:g}"


def is_set(values: Values, parameter: Parameter) -> bool:
    """A parameter that is true or false."""
    return bool(values.get(parameter.name, parameter.default))


def share(parts: list[float], total_name: str = "weight") -> list[float]:
    """The parts divided by their sum. Raises ValueError where that is zero."""
    total = nonzero_sum(parts, total_name)
    return [part / total for part in parts]


def nonzero_sum(parts: list[float], name: str = "weight") -> float:
    """Raises ValueError for a sum too near zero to divide by."""
    total = math.fsum(parts)
    if abs(total) < 1e-8:
        raise ValueError(f"{name} sums to {total:g} over the models: not to be divided by")
    return total
