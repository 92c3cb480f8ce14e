"""Whether a delta is what was packed, to the last bit of the weights that it makes."""

from dataclasses import dataclass
from pathlib import Path

from merge_on_load.building import Built
from merge_on_load.checkpoint import Checkpoint
from merge_on_load.delta import Delta
from merge_on_load.errors import CorruptPayload
from merge_on_load.manifest import SHORT_DIGEST
from merge_on_load.progress import Progress, silent
from merge_on_load.tensors import tensor_digest


@dataclass(frozen=True, slots=True)
class Verified:
    """tensor_count: tensors that were built; fingerprint: of them all, as it was recorded."""

    tensor_count: int
    fingerprint: str


def verify(base: Path, delta: Path, *, progress: Progress | None = None) -> Verified:
    """Check every file of a delta, build every tensor, and compare with what `pack` recorded.

    progress: called with done and total bytes. Memory: a few tensors.
    Raises CorruptPayload, which names the file or the tensor that is another one, and as `stream`.
    """
    opened = Delta.open(Path(delta))
    built = Built(Checkpoint.open(Path(base)), opened)
    total_bytes = sum(built.spec(name).size_bytes for name in built.names)
    done_bytes = 0
    for name in built.names:
        expected, found = opened.entry(name).digest, tensor_digest(built.read(name))[:SHORT_DIGEST]
        if found != expected:
            raise CorruptPayload(
                "the rebuilt tensor is not the one that was packed",
                file=opened.path,
                tensor=name,
                expected=expected,
                found=found,
            )
        done_bytes += built.spec(name).size_bytes
        (progress or silent)(done_bytes, total_bytes)
    return Verified(len(built.names), opened.manifest.rebuilt_fingerprint)
