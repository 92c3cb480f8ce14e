"""Merge methods, by mergekit's names. Importing this imports neither torch nor numba.

Each family has a file, with the papers in its docstrings. How a method differs from mergekit's of
that name, where it does, is in ../DIFFERENCES.md.
"""

from collections.abc import Mapping
from types import MappingProxyType

from merge_on_load.errors import BadRecipe
from merge_on_load.methods.arcee_fusion import ARCEE_FUSION
from merge_on_load.methods.karcher import KARCHER
from merge_on_load.methods.linear import LINEAR, PASSTHROUGH, TASK_ARITHMETIC
from merge_on_load.methods.method import Method
from merge_on_load.methods.model_stock import MODEL_STOCK
from merge_on_load.methods.nearswap import NEARSWAP
from merge_on_load.methods.ram import RAM, RAMPLUS_TL
from merge_on_load.methods.sce import SCE
from merge_on_load.methods.spherical import MULTISLERP, NUSLERP, SLERP
from merge_on_load.methods.task_vectors import (
    BREADCRUMBS,
    BREADCRUMBS_TIES,
    DARE_LINEAR,
    DARE_TIES,
    DELLA,
    DELLA_LINEAR,
    TIES,
)

__all__ = ["METHODS", "find_method"]

_ALL = (
    LINEAR,
    SLERP,
    NUSLERP,
    MULTISLERP,
    KARCHER,
    TASK_ARITHMETIC,
    TIES,
    DARE_LINEAR,
    DARE_TIES,
    DELLA,
    DELLA_LINEAR,
    BREADCRUMBS,
    BREADCRUMBS_TIES,
    MODEL_STOCK,
    SCE,
    NEARSWAP,
    ARCEE_FUSION,
    RAM,
    RAMPLUS_TL,
    PASSTHROUGH,
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})


def find_method(name: str) -> Method:
    """Raises BadRecipe for a name that is none."""
    if name not in METHODS:
        raise BadRecipe("no such merge method", expected=", ".join(sorted(METHODS)), found=name)
    return METHODS[name]
