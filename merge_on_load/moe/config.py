"""config.json of the assembled model, so that it computes what the dense base computes.

Sizes are read off the tensors. What the dense architecture takes for granted where config.json is
silent is written out: the sparse one may take something else for granted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_on_load.errors import BadRecipe
from merge_on_load.moe.dense import EMBEDDING, Dense, layer_tensor, mlp_part
from merge_on_load.moe.families import DEEPSEEK, MIXTRAL, QWEN2_MOE, QWEN3_MOE, Family

# What transformers and the models' papers take where a dense config.json does not tell.
_QWEN: Mapping[str, Any] = {"max_position_embeddings": 32768}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {"max_position_embeddings": 131072, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": _QWEN,
    "qwen3": _QWEN,
}
_COMMON_DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_ROPE_THETA = 10000.0  # of all four
_MISTRAL_WINDOW = 4096
_QWEN_WINDOW, _QWEN_FULL_LAYERS = 4096, 28  # layers from here on have the window

# Keys that say something of the dense model alone.
_LEFT_BEHIND = (
    "_name_or_path",
    "attention_bias",
    "auto_map",
    "layer_types",
    "max_window_layers",
    "mlp_bias",
    "pretraining_tp",
    "sliding_window",
    "use_sliding_window",
)


def sparse_config(
    family: Family,
    base: Dense,
    *,
    expert_count: int,
    experts_per_token: int,
    shared_width: int | None,
    dtype: str | None,
    file: Path,
) -> dict[str, Any]:
    """config.json's content. file: for errors.

    shared_width: intermediate size of the shared expert, None without one.

    Raises BadRecipe for a base that has no config in this family.
    """
    kept = {key: value for key, value in base.config.items() if key not in _LEFT_BEHIND}
    config = {**_COMMON_DEFAULTS, **_DEFAULTS[base.model_type], **kept, **_sizes(base)}
    config |= {"architectures": [family.class_name], "model_type": family.model_type}
    if "rope_theta" not in {**config, **(config.get("rope_parameters") or {})}:
        config["rope_theta"] = _ROPE_THETA
    config |= _window(family, base, file) | _routing(family, base, expert_count, shared_width)
    config["num_experts_per_tok"] = experts_per_token
    if (
        family == DEEPSEEK
        and config["head_dim"] * config["num_attention_heads"] != (config["hidden_size"])
    ):
        raise BadRecipe(
            "DeepSeek MoE has no head_dim of its own", file=file, found=config["head_dim"]
        )
    if dtype is not None:
        config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    return config


def _sizes(base: Dense) -> dict[str, int]:
    head_count = base.config.get("num_attention_heads")
    if not isinstance(head_count, int) or head_count < 1:
        raise BadRecipe(
            "config.json does not tell num_attention_heads",
            file=base.source.path,
            found=head_count,
        )
    vocab_size, hidden_size = base.shape(EMBEDDING)
    head_dim = base.shape(layer_tensor(0, "self_attn.q_proj.weight"))[0] // head_count
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": base.shape(layer_tensor(0, mlp_part("gate_proj")))[0],
        "num_hidden_layers": len(base.layers),
        "head_dim": head_dim,
        "num_key_value_heads": (
            base.shape(layer_tensor(0, "self_attn.k_proj.weight"))[0] // head_dim
        ),
    }


def _routing(
    family: Family, base: Dense, expert_count: int, shared_width: int | None
) -> dict[str, Any]:
    """Every layer is sparse, and the weights of a token's experts sum to one."""
    width = base.shape(layer_tensor(0, mlp_part("gate_proj")))[0]
    if family == MIXTRAL:
        return {
            "num_local_experts": expert_count,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
            "router_jitter_noise": 0.0,
        }
    if family == DEEPSEEK:
        return {
            "attention_bias": False,
            "aux_loss_alpha": 0.001,
            "first_k_dense_replace": 0,
            "moe_intermediate_size": width,
            "moe_layer_freq": 1,
            "n_routed_experts": expert_count,
            "n_shared_experts": None if shared_width is None else 1,
            "norm_topk_prob": True,
            "scoring_func": "softmax",
        }
    config = {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": width,
        "norm_topk_prob": True,
        "num_experts": expert_count,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    }
    if family == QWEN3_MOE:
        return {**config, "attention_bias": "self_attn.q_proj.bias" in base.layers[0]}
    return {
        **config,
        "qkv_bias": "self_attn.q_proj.bias" in base.layers[0],
        "shared_expert_intermediate_size": shared_width,
    }


def _window(family: Family, base: Dense, file: Path) -> dict[str, Any]:
    """How far the attention of each layer looks back, in the family's words."""
    windows = _windows(base)
    found = {one for one in windows if one is not None}
    width = next(iter(found), None)
    if family == QWEN2_MOE:
        types = ["full_attention" if one is None else "sliding_attention" for one in windows]
        return {
            "layer_types": types,
            "max_window_layers": sum(one is None for one in windows),
            "sliding_window": width,
            "use_sliding_window": width is not None,
        }
    if found and (None in windows or family == DEEPSEEK):
        raise BadRecipe(
            f"{family.class_name} has no sliding window, or the same in all layers; the base has"
            f" one of {width} tokens in {len(windows) - windows.count(None)} of {len(windows)}",
            file=file,
        )
    if family == QWEN3_MOE:
        return {"sliding_window": width, "use_sliding_window": width is not None}
    return {"sliding_window": width} if family == MIXTRAL else {}


def _windows(base: Dense) -> Sequence[int | None]:
    """For each layer the tokens that it looks back, None for all."""
    config, count = base.config, len(base.layers)
    if base.model_type == "llama":
        return [None] * count
    if base.model_type == "mistral":
        return [config.get("sliding_window", _MISTRAL_WINDOW)] * count
    width = config.get("sliding_window", _QWEN_WINDOW)
    if not config.get("use_sliding_window") or width is None:
        return [None] * count
    full = config.get("max_window_layers", _QWEN_FULL_LAYERS)
    types = config.get("layer_types") or [
        "sliding_attention" if i >= full else "full_attention" for i in range(count)
    ]
    return [width if one == "sliding_attention" else None for one in types]
