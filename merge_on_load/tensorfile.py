"""The safetensors file layout, written by hand so that it can be streamed.

A file is: uint64 little-endian header length, JSON header (padded with spaces to 8 bytes), data.
Layout: https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from merge_on_load.specs import TensorSpec

if TYPE_CHECKING:
    import torch

_LENGTH_BYTES = 8
# `:{"dtype":"U8","shape":[],"data_offsets":[,]},` with a size and two offsets of thirteen digits.
_ENTRY_ROOM_BYTES = 88


def render_header(
    specs: Mapping[str, TensorSpec],
    metadata: Mapping[str, str] | None = None,
    *,
    room_bytes: int = 0,
    multiple_bytes: int = 8,
) -> bytes:
    """Length word and header of a file that holds `specs` back to back, in order.

    room_bytes: pad the JSON to at least that many bytes, a multiple of 8. multiple_bytes: pad it so
    that the tensors begin at a multiple of this, which is one of 8.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name, spec in specs.items():
        end = begin + spec.size_bytes
        offsets = [begin, end]
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": offsets}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    whole = -(-(len(text) + _LENGTH_BYTES) // multiple_bytes) * multiple_bytes
    padded = text.ljust(max(room_bytes, whole - _LENGTH_BYTES))
    return len(padded).to_bytes(_LENGTH_BYTES, "little") + padded


class TensorFileWriter:
    """Append uint8[bytes] to a safetensors file whose number is not known in advance.

    names: every name that may be appended; they bound the header, which is written last.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        room = sum(len(json.dumps(name)) + _ENTRY_ROOM_BYTES for name in names)
        self._room_bytes = -(-room // 8) * 8
        self._specs: dict[str, TensorSpec] = {}
        self._file = path.open("wb")
        self._file.seek(_LENGTH_BYTES + self._room_bytes)

    @property
    def size_bytes(self) -> int:
        """Bytes of data so far."""
        return sum(spec.size_bytes for spec in self._specs.values())

    def append(self, name: str, tensor: "torch.Tensor") -> None:
        """Write one CPU tensor, uint8[bytes], after the last."""
        from merge_on_load.tensors import raw_bytes, spec_of  # here: torch is slow to import

        self._specs[name] = spec_of(tensor)
        self._file.write(raw_bytes(tensor).data)

    def close(self) -> None:
        """Write the header and close the file."""
        header = render_header(self._specs, room_bytes=self._room_bytes)
        assert len(header) == _LENGTH_BYTES + self._room_bytes, "header outgrew its room"
        self._file.seek(0)
        self._file.write(header)
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()
