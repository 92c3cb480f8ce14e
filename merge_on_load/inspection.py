"""Describe a checkpoint, a delta or a LoRA adapter as plain data."""

from pathlib import Path
from typing import Any

from merge_on_load.checkpoint import Checkpoint
from merge_on_load.delta import Delta
from merge_on_load.errors import CorruptPayload
from merge_on_load.lora import Lora
from merge_on_load.names import ADAPTER_NAME, MANIFEST_NAME


def inspect(path: Path) -> dict[str, Any]:
    """What a directory holds, JSON-able; reads all of it to compute or check digests.

    A delta with altered payload is described with "valid": false and the "problem".
    Raises NotACheckpoint, and what `Checkpoint.open`, `Delta.open` and `Lora.open` raise.
    """
    path = Path(path)
    if (path / MANIFEST_NAME).is_file():
        return _describe_delta(Delta.open(path))
    if (path / ADAPTER_NAME).is_file():
        return _describe_lora(Lora.open(path))
    return _describe_checkpoint(Checkpoint.open(path))


def _describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    specs = [checkpoint.spec(name) for name in checkpoint.names]
    return {
        "kind": "checkpoint",
        "path": str(checkpoint.path),
        "tensor_count": len(specs),
        "parameter_count": checkpoint.parameter_count,
        "size_bytes": checkpoint.size_bytes,
        "dtypes": sorted({spec.dtype for spec in specs}),
        "side_files": sorted(checkpoint.side_files),
        "fingerprint": checkpoint.fingerprint(),
    }


def _describe_delta(delta: Delta) -> dict[str, Any]:
    problem = _problem(delta)
    full_size_bytes = sum(entry.spec.size_bytes for entry in delta.manifest.tensors.values())
    return {
        "kind": "delta",
        "path": str(delta.path),
        "digest": delta.digest,
        "codec": delta.codec,
        "codings": delta.codings,
        "base": {"name": delta.manifest.base_name, "fingerprint": delta.base_fingerprint},
        "builds_on": [str(one.path) for one in reversed(delta.chain[:-1])],
        "tensor_count": len(delta.manifest.tensors),
        "size_bytes": delta.size_bytes,
        "ratio_to_full_copy": delta.size_bytes / max(1, full_size_bytes),
        "measured": delta.measured,
        "lineage": delta.lineage,
        "side_files": sorted(delta.side_files),
        "valid": problem is None,
        "problem": problem,
    }


def _describe_lora(lora: Lora) -> dict[str, Any]:
    return {
        "kind": "lora",
        "path": str(lora.path),
        "digest": lora.digest,
        "rank": lora.rank,
        "scales": lora.scales,
        "target_count": len(lora.target_names),
        "targets": lora.target_names,
        "size_bytes": lora.size_bytes,
        "lineage": lora.lineage,
    }


def _problem(delta: Delta) -> str | None:
    try:
        delta.verify()
    except CorruptPayload as error:
        return str(error)
    return None
