"""A delta directory, read: what turns one base into one fine-tuned model.

NAME.delta/
  delta.json                 the manifest, see `manifest.py`
  payload-00001.safetensors  what each tensor is stored as, one blob (`blobs.py`) under its name
  files/                     side files of the tuned model that differ from the base's
"""

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from merge_on_load import manifest
from merge_on_load.blobs import from_blob
from merge_on_load.checkpoint import open_tensors
from merge_on_load.codecs import Coding
from merge_on_load.errors import CorruptPayload, MissingTensor, NotADelta
from merge_on_load.hashing import file_digest, parallel_map
from merge_on_load.manifest import SHORT_DIGEST, Entry, Manifest, Stored
from merge_on_load.names import MANIFEST_NAME
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import tensor_digest

FILES_NAME = "files"


class Delta:
    """An opened delta. `open` checks the manifest and the sizes, `verify` every byte.

    digest: hex SHA-256 of the manifest, which holds the digests of all else: its identity.
    """

    def __init__(self, path: Path, content: Manifest, digest: str) -> None:
        """Use `Delta.open`."""
        self.path = path
        self.manifest = content
        self.digest = digest
        self._handles: dict[str, Any] = {}
        self._verified: dict[Path, tuple[int, int]] | None = None

    @classmethod
    def open(cls, path: Path) -> "Delta":
        """Read the manifest of a delta directory and check that its files are there in full.

        Raises NotADelta, UnknownVersion, UnknownCodec, UnsupportedDtype, CorruptPayload.
        """
        path = Path(path)
        file = path / MANIFEST_NAME
        if not file.is_file():
            raise NotADelta(f"no {MANIFEST_NAME} here", file=path)
        content, digest = manifest.parse(file.read_bytes(), file)
        delta = cls(path, content, digest)
        for stored_file, stored in delta._files().items():
            _stamp(stored_file, stored)
        return delta

    @property
    def codec(self) -> str:
        return self.manifest.codec

    @property
    def codings(self) -> dict[str, int]:
        """How many tensors are stored by which codec, with its settings."""
        entries = self.manifest.tensors.values()
        return dict(
            sorted(Counter(str(Coding(one.codec, one.settings)) for one in entries).items())
        )

    @property
    def lineage(self) -> dict[str, Any]:
        """What the delta was made from and how; includes the tuned model's fingerprint."""
        return self.manifest.lineage

    @property
    def measured(self) -> dict[str, Any]:
        """size_bytes, bits_per_parameter and relative_error, as measured when it was packed."""
        return self.manifest.measured

    @property
    def base_fingerprint(self) -> str:
        return self.manifest.base_fingerprint

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole directory."""
        stored = sum(stored.size_bytes for stored in self._files().values())
        return stored + (self.path / MANIFEST_NAME).stat().st_size

    @property
    def side_files(self) -> dict[str, Path]:
        """Side files that replace or join the base's, by name."""
        return {name: self.path / FILES_NAME / name for name in self.manifest.kept_files}

    def entry(self, name: str) -> Entry:
        """How one tensor is stored. Raises MissingTensor."""
        try:
            return self.manifest.tensors[name]
        except KeyError:
            raise MissingTensor("no such tensor", file=self.path, tensor=name) from None

    def spec(self, name: str) -> TensorSpec:
        """dtype and shape of the tensor that results. Raises MissingTensor."""
        return self.entry(name).spec

    def verify(self) -> None:
        """Hash every file, then check that each part is there. Raises CorruptPayload.

        Files that have not been touched since this object last verified them pass at once.
        """
        files = self._files()
        stamps = {file: _stamp(file, stored) for file, stored in files.items()}
        if stamps == self._verified:
            return
        self._handles.clear()
        parallel_map(lambda pair: _check_digest(*pair), files.items())
        self._check_parts()
        self._verified = stamps

    def payload(self, name: str) -> dict[str, torch.Tensor]:
        """The stored parts of one tensor, in memory of their own.

        Compared once more with the manifest: a file may have changed since `verify`, and what is
        mapped changes with it. Raises CorruptPayload.
        """
        entry = self.entry(name)
        if entry.file is None:
            return {}
        file, blob = self.path / entry.file, self._handle(entry.file).get_tensor(name).clone()
        found = tensor_digest(blob)[:SHORT_DIGEST]
        if found != entry.stored_digest:
            expected = entry.stored_digest
            raise CorruptPayload(
                "file was altered", file=file, tensor=name, expected=expected, found=found
            )
        try:
            return from_blob(blob)
        except CorruptPayload as error:
            raise error.located(file=file, tensor=name) from error

    def _check_parts(self) -> None:
        keys = {file: set(self._handle(file).keys()) for file in self.manifest.payloads}
        for name, entry in self.manifest.tensors.items():
            if entry.file is not None and name not in keys[entry.file]:
                raise CorruptPayload("it is missing", file=self.path / entry.file, tensor=name)

    def _handle(self, file: str) -> Any:
        if file not in self._handles:
            self._handles[file] = open_tensors(self.path / file)
        return self._handles[file]

    def _files(self) -> dict[Path, Stored]:
        payloads = {self.path / name: stored for name, stored in self.manifest.payloads.items()}
        kept = self.manifest.kept_files.items()
        return payloads | {self.path / FILES_NAME / name: stored for name, stored in kept}


def _stamp(file: Path, stored: Stored) -> tuple[int, int]:
    """What changes when a file does: inode and time. Raises CorruptPayload for another size."""
    try:
        status = file.stat()
    except FileNotFoundError:
        raise CorruptPayload("file is missing", file=file) from None
    expected, found = stored.size_bytes, status.st_size
    if found != expected:
        raise CorruptPayload("file has another size", file=file, expected=expected, found=found)
    return status.st_ino, status.st_mtime_ns


def _check_digest(file: Path, stored: Stored) -> None:
    found = file_digest(file)
    if found != stored.sha256:
        raise CorruptPayload("file was altered", file=file, expected=stored.sha256, found=found)
