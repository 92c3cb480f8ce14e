"""Write the payload files of a delta as a stream, in bounded memory."""

from collections.abc import Iterable
from pathlib import Path

from merge_on_load.codecs import Payload
from merge_on_load.delta import payload_key
from merge_on_load.hashing import file_digest, parallel_map
from merge_on_load.manifest import Stored
from merge_on_load.tensorfile import TensorFileWriter
from merge_on_load.tensors import spec_of

FILE_LIMIT_BYTES = 1 << 30  # beyond it the next file begins, so that many threads can verify
_LONGEST_PART = "." + "x" * 16


class PayloadWriter:
    """Appends payloads to one series of files per dtype: `u8-00001.safetensors`, ...

    names: every tensor that may be added, each once. Use as a context manager that closes the
    files; `finish` writes their headers.
    """

    def __init__(
        self, directory: Path, names: Iterable[str], *, file_limit_bytes: int = FILE_LIMIT_BYTES
    ) -> None:
        self._directory = directory
        self._keys = [name + _LONGEST_PART for name in names]
        self._file_limit_bytes = file_limit_bytes
        self._open: dict[str, tuple[str, TensorFileWriter]] = {}
        self._names: list[str] = []

    def __enter__(self) -> "PayloadWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for _name, writer in self._open.values():
            writer.abandon()

    def add(self, name: str, payload: Payload) -> dict[str, str]:
        """Append the parts of one tensor; returns part -> file name."""
        places = {}
        for part, tensor in payload.items():
            places[part], writer = self._writer(spec_of(tensor).dtype.lower())
            writer.append(payload_key(name, part), tensor)
        return places

    def finish(self) -> dict[str, Stored]:
        """Write the headers, close the files and hash them."""
        for _name, writer in self._open.values():
            writer.close()
        self._open = {}
        return dict(zip(self._names, parallel_map(self._stored, self._names), strict=True))

    def _writer(self, dtype: str) -> tuple[str, TensorFileWriter]:
        """The file that takes the next tensor of a dtype."""
        if dtype in self._open and self._open[dtype][1].size_bytes >= self._file_limit_bytes:
            self._open.pop(dtype)[1].close()
        if dtype not in self._open:
            number = 1 + sum(name.startswith(f"{dtype}-") for name in self._names)
            name = f"{dtype}-{number:05d}.safetensors"
            self._names.append(name)
            self._open[dtype] = name, TensorFileWriter(self._directory / name, self._keys)
        return self._open[dtype]

    def _stored(self, name: str) -> Stored:
        file = self._directory / name
        return Stored(file_digest(file), file.stat().st_size)
