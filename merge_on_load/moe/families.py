"""The sparse architectures that can be written: what their checkpoints call what they have."""

from dataclasses import dataclass

from merge_on_load.moe.document import MoeRecipe

MLP_PARTS = ("gate_proj", "up_proj", "down_proj")  # of every dense model that is taken

_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
_ATTENTION = tuple(f"self_attn.{part}_proj.weight" for part in "qkvo")
_QKV_BIASES = tuple(f"self_attn.{part}_proj.bias" for part in "qkv")
_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")


@dataclass(frozen=True, slots=True)
class Family:
    """A sparse architecture.

    block: of a layer, what stands before its router and experts. parts: names of MLP_PARTS in an
    expert. shared: what stands before the shared expert's parts, None where there is none.
    shared_gate: the tensor that weighs its output. needed, optional: all else that a layer has;
    what is in neither has no place here.
    """

    name: str
    model_type: str
    class_name: str
    block: str
    parts: tuple[str, str, str] = MLP_PARTS
    shared: str | None = None
    shared_gate: str | None = None
    needed: tuple[str, ...] = (*_NORMS, *_ATTENTION)
    optional: tuple[str, ...] = ()

    @property
    def router(self) -> str:
        """Of a layer: [expert_count, hidden_size]."""
        return f"{self.block}.gate.weight"

    def expert(self, number: int, part: str) -> str:
        """Of a layer: a part of an expert. part: one of MLP_PARTS."""
        return f"{self.block}.experts.{number}.{self.parts[MLP_PARTS.index(part)]}.weight"

    def shared_expert(self, part: str) -> str:
        """Of a layer: a part of its shared expert, where the family has one."""
        return f"{self.shared}.{part}.weight"


# Jiang et al. 2024, arXiv:2401.04088.
MIXTRAL = Family(
    "mixtral", "mixtral", "MixtralForCausalLM", "block_sparse_moe", parts=("w1", "w3", "w2")
)
# The shared expert's output is multiplied by sigmoid(shared_gate @ x).
QWEN2_MOE = Family(
    "qwen",
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    "mlp",
    shared="mlp.shared_expert",
    shared_gate="mlp.shared_expert_gate.weight",
    optional=_QKV_BIASES,
)
QWEN3_MOE = Family(
    "qwen",
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    "mlp",
    needed=(*_NORMS, *_ATTENTION, *_HEAD_NORMS),
    optional=(*_QKV_BIASES, "self_attn.o_proj.bias"),
)
# Dai et al. 2024, arXiv:2401.06066: the first DeepSeek MoE, with plain attention. vLLM serves it;
# transformers has no class for it.
DEEPSEEK = Family("deepseek", "deepseek", "DeepseekForCausalLM", "mlp", shared="mlp.shared_experts")


def family_of(recipe: MoeRecipe, model_type: str) -> Family:
    """What the recipe asks for, or what fits. model_type: the dense base's.

    Qwen3 models become Qwen3-MoE and Qwen2 models Qwen2-MoE. Llama and Mistral models become
    Mixtral, which has no shared expert: with one, Qwen2-MoE, or DeepSeek MoE where Qwen's gate for
    it would need prompts that are not there.
    """
    if recipe.architecture == "mixtral":
        return MIXTRAL
    if recipe.architecture == "deepseek":
        return DEEPSEEK
    if model_type == "qwen3":
        return QWEN3_MOE
    if recipe.architecture == "qwen" or model_type == "qwen2":
        return QWEN2_MOE
    if recipe.shared_expert is None:
        return MIXTRAL
    lacks_prompts = recipe.uses_prompts and not recipe.shared_expert.positive_prompts
    return DEEPSEEK if lacks_prompts else QWEN2_MOE
