"""Write the payload files of a delta as a stream, in bounded memory."""

from collections.abc import Iterable
from pathlib import Path

from merge_on_load.blobs import to_blob
from merge_on_load.codecs import Payload
from merge_on_load.hashing import file_digest
from merge_on_load.manifest import SHORT_DIGEST, Stored
from merge_on_load.tensorfile import TensorFileWriter
from merge_on_load.tensors import tensor_digest
from merge_on_load.threads import parallel_map

FILE_LIMIT_BYTES = 1 << 30  # beyond it the next file begins, so that many threads can verify


class PayloadWriter:
    """Appends payloads to a series of files: `payload-00001.safetensors`, ... Each has one blob for
    each tensor, under the tensor's name.

    names: every tensor that may be added, each once. Use as a context manager that closes the
    files; `finish` writes their headers.
    """

    def __init__(
        self, directory: Path, names: Iterable[str], *, file_limit_bytes: int = FILE_LIMIT_BYTES
    ) -> None:
        self._directory = directory
        self._left = dict.fromkeys(names)
        self._file_limit_bytes = file_limit_bytes
        self._names: list[str] = []
        self._open: TensorFileWriter | None = None

    def __enter__(self) -> "PayloadWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._open.abandon()

    def add(self, name: str, payload: Payload) -> tuple[str, str]:
        """Append what one tensor is stored as; returns the file's name, and a short digest."""
        writer, blob = self._writer(), to_blob(payload)
        writer.append(name, blob)
        del self._left[name]
        return self._names[-1], tensor_digest(blob)[:SHORT_DIGEST]

    def finish(self) -> dict[str, Stored]:
        """Write the headers, close the files and hash them."""
        if self._open:
            self._open.close()
        self._open = None
        return dict(zip(self._names, parallel_map(self._stored, self._names), strict=True))

    def _writer(self) -> TensorFileWriter:
        """The file that takes the next tensor."""
        if self._open and self._open.size_bytes >= self._file_limit_bytes:
            self._open.close()
            self._open = None
        if not self._open:
            self._names.append(f"payload-{len(self._names) + 1:05d}.safetensors")
            self._open = TensorFileWriter(self._directory / self._names[-1], self._left)
        return self._open

    def _stored(self, name: str) -> Stored:
        file = self._directory / name
        return Stored(file_digest(file), file.stat().st_size)
