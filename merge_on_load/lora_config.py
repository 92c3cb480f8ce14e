"""`adapter_config.json` of a LoRA adapter, as PEFT writes it.

Whatever could change the merged weights in a way that is unknown here is refused by its name. After
`LoraConfig` of PEFT 0.21.2: https://github.com/huggingface/peft, src/peft/tuners/lora/config.py.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from merge_on_load.errors import CorruptPayload, UnsupportedAdapter

T = TypeVar("T")

_READ = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("bias", "init_lora_weights"),
}
_LINEAGE = ("base_model_name_or_path", "peft_version", "revision", "task_type")
# How the adapter was trained, which the tensors do not need; which modules it changes, which they
# tell; settings of features that are off.
_HARMLESS = {
    *_LINEAGE,
    *("auto_mapping", "inference_mode", "lora_dropout", "parent_library"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),
    *("megatron_core", "qalora_group_size"),
}
# The others (pissa, olora, corda, loftq, ...) change the base's weights before training begins;
# PEFT writes `true` once such an adapter is converted (path_initial_model_for_weight_conversion).
_BEGINNINGS = (None, True, False, "eva", "gaussian", "orthogonal")


@dataclass(frozen=True)
class LoraConfig:
    """What decides the scale of each module.

    ranks, alphas: a regular expression for module names -> what replaces rank or alpha there.
    lineage: what the adapter says of its origin, null left out.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    is_rank_stabilized: bool
    lineage: Mapping[str, Any]

    def rank_of(self, module: str) -> int:
        """module: its name in the base, such as "model.layers.0.self_attn.q_proj"."""
        return _look_up(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What B @ A is multiplied by: alpha / rank; rank-stabilized (Kalajdzievski 2023,
        arXiv:2312.03732): alpha / sqrt(rank).
        """
        rank = self.rank_of(module)
        alpha = _look_up(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def parse(content: bytes, file: Path) -> LoraConfig:
    """Read the file's content. Raises UnsupportedAdapter, CorruptPayload."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptPayload(f"not JSON: {error}", file=file) from error
    if not isinstance(told, dict):
        raise CorruptPayload("not a JSON object", file=file)
    _check_supported(told, file)
    try:
        return LoraConfig(
            rank=_rank(told["r"]),
            alpha=_number(told["lora_alpha"]),
            ranks={_pattern(key): _rank(r) for key, r in (told.get("rank_pattern") or {}).items()},
            alphas={
                _pattern(key): _number(alpha)
                for key, alpha in (told.get("alpha_pattern") or {}).items()
            },
            is_rank_stabilized=_flag(told.get("use_rslora")),
            lineage={key: told[key] for key in _LINEAGE if told.get(key) is not None},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, re.error) as error:
        raise CorruptPayload(f"malformed adapter: {error!r}", file=file) from error


def _check_supported(told: Mapping[str, Any], file: Path) -> None:
    if told.get("peft_type") != "LORA":
        raise UnsupportedAdapter(
            "peft_type is not supported", file=file, expected="LORA", found=told.get("peft_type")
        )
    if told.get("bias", "none") != "none":
        raise UnsupportedAdapter(
            "bias is not supported", file=file, expected="none", found=told["bias"]
        )
    if told.get("init_lora_weights") not in _BEGINNINGS:
        raise UnsupportedAdapter(
            "init_lora_weights may have changed the base that this adapter belongs to",
            file=file,
            found=told["init_lora_weights"],
        )
    for key in sorted(told.keys() - _READ - _HARMLESS):
        if not _is_off(told[key]):
            raise UnsupportedAdapter(f"{key} is not supported", file=file, found=told[key])


def _is_off(value: object) -> bool:
    return value is None or value is False or value in ("", [], {})


def _look_up(patterns: Mapping[str, T], module: str, default: T) -> T:
    """As PEFT's `get_pattern_key`: the first pattern that is the module's whole name, or its end
    after a dot.
    """
    for pattern, value in patterns.items():
        if re.match(_as_expression(pattern), module):
            return value
    return patterns.get(module, default)


def _as_expression(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _pattern(pattern: str) -> str:
    re.compile(_as_expression(pattern))
    return pattern


def _rank(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"a rank is a whole number from 1, not {value!r}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"an alpha is a finite number, not {value!r}")
    return float(value)


def _flag(value: object) -> bool:
    if value not in (None, True, False):
        raise ValueError(f"use_rslora is true or false, not {value!r}")
    return bool(value)
