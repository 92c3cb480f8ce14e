"""A delta of thin products as a LoRA adapter, in PEFT's form: what `lora.py` reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from merge_on_load.aside import check_output_apart, written_aside
from merge_on_load.building import Built
from merge_on_load.checkpoint import Checkpoint
from merge_on_load.codecs import SAME
from merge_on_load.codecs.layout import is_embedding
from merge_on_load.codecs.lowrank import LowrankCodec
from merge_on_load.delta import Delta
from merge_on_load.errors import MissingTensor, UnsupportedAdapter
from merge_on_load.lora import TENSORS_NAME, Lora
from merge_on_load.manifest import Entry
from merge_on_load.names import ADAPTER_NAME
from merge_on_load.recipes.lineage import read_json

# A linear layer's too, though it is stored and coded as embeddings are.
_HEADS = ("lm_head.weight", "embed_out.weight")
# Their linear layers hold [in, out]; PEFT would take an adapter of [out, in] for the transpose.
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_EXPECTED = "lowrank, without residual, of a linear weight"


@dataclass(frozen=True, slots=True)
class Exported:
    """adapter: as it was written. dropped: changed tensors that are not, or not wholly, in it."""

    adapter: Lora
    dropped: list[str]


@dataclass(slots=True)
class _Halves:
    """Of the modules so far. tensors: by PEFT's names."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)

    def add(self, module: str, a: torch.Tensor, b: torch.Tensor) -> None:
        """a: [rank, in], b: [out, rank], both float32."""
        self.ranks[module] = len(a)
        for half, tensor in (("A", a), ("B", b)):
            key = f"base_model.model.{module}.lora_{half}.weight"
            self.tensors[key] = _narrowed(tensor)


def export_lora(
    base: Path, delta: Path, out: Path, *, drop: bool = False, overwrite: bool = False
) -> Exported:
    """Write the thin products of `delta` as an adapter directory: B @ A, a scale of 1.

    Merged, it gives the delta's weights but for rounding: a delta's sum is rounded as its own
    kernel does. drop: leave out what an adapter cannot hold (a changed embedding or norm, another
    codec's tensor, a residual's signs) in place of refusing it. Memory: the adapter.
    Raises UnsupportedAdapter (a tensor of that kind, a chain, a model whose linear layers are
    transposed), MissingTensor (nothing is left to export), OutputExists and as `stream`.
    """
    opened_base, opened = Checkpoint.open(Path(base)), Delta.open(Path(delta))
    out = Path(out)
    check_output_apart(out, (opened_base.path, opened.path))
    if opened.parent:
        raise UnsupportedAdapter(
            "an adapter is of the base alone; repack the delta with --flatten", file=opened.path
        )
    _check_layers(opened_base.path)
    built = Built(opened_base, opened)
    halves, dropped = _halves(opened_base, opened, built)
    if dropped and not drop:
        found = opened.entry(dropped[0])
        told = f"{found.codec}, {found.spec}"
        raise UnsupportedAdapter(
            f"an adapter cannot hold all of {len(dropped)} changed tensors",
            file=opened.path,
            tensor=dropped[0],
            expected=_EXPECTED,
            found=told,
        )
    if not halves.ranks:
        raise MissingTensor("no tensor is a thin product", file=opened.path, expected=_EXPECTED)
    with written_aside(out, overwrite=overwrite) as directory:
        save_file(halves.tensors, directory / TENSORS_NAME, metadata={"format": "pt"})
        config = json.dumps(_config(base, halves.ranks), indent=2, sort_keys=True)
        (directory / ADAPTER_NAME).write_text(f"{config}\n", encoding="utf-8")
        Lora.open(directory).check_belongs(opened_base)
    return Exported(Lora.open(out), dropped)


def _check_layers(base: Path) -> None:
    kind = read_json(base / "config.json").get("model_type")
    if kind in _TRANSPOSED:
        raise UnsupportedAdapter("its linear layers are transposed", file=base, found=kind)


def _halves(base: Checkpoint, delta: Delta, built: Built) -> tuple[_Halves, list[str]]:
    """What an adapter holds, and the changed tensors that it does not hold, or not wholly."""
    halves, dropped = _Halves(), []
    for name in base.names:
        entry = delta.entry(name)
        if entry.codec == SAME:
            continue
        if _is_thin(name, entry):
            halves.add(name.removesuffix(".weight"), *_factors(delta, name, entry))
            if not entry.settings.residual:
                continue
        elif torch.equal(built.read(name), base.read(name).to(entry.spec.torch_dtype)):
            continue
        dropped.append(name)
    return halves, dropped


def _is_thin(name: str, entry: Entry) -> bool:
    is_linear = len(entry.spec.shape) == 2 and name.endswith(".weight")
    is_looked_up = is_embedding(name) and not name.endswith(_HEADS)
    return entry.codec == LowrankCodec.name and is_linear and not is_looked_up


def _factors(delta: Delta, name: str, entry: Entry) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, in] and B [out, rank], as they are stored, in float32."""
    codec = LowrankCodec(entry.settings)
    left, right = codec.stored_factors(delta.payload(name), entry.spec)
    return torch.from_numpy(right), torch.from_numpy(left).T.contiguous()


def _narrowed(tensor: torch.Tensor) -> torch.Tensor:
    """In bfloat16 where that holds every value of it."""
    half = tensor.bfloat16()
    return half if torch.equal(half.float(), tensor) else tensor


def _config(base: Path, ranks: Mapping[str, int]) -> dict[str, Any]:
    """adapter_config.json: alpha is the rank everywhere, so that each scale is 1."""
    largest = max(ranks.values())
    others = {f"^{_escaped(name)}": rank for name, rank in ranks.items() if rank != largest}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def _escaped(module: str) -> str:
    return module.replace(".", r"\.")
