"""A delta directory, read: what turns one base into one fine-tuned model.

NAME.delta/
  delta.json                 the manifest, see `manifest.py`
  payload-00001.safetensors  what each tensor is stored as, one blob (`blobs.py`) under its name
  files/                     side files of the tuned model that differ from the base's

A delta may build on another, its parent, in place of the bare base: `parent` of the manifest says
where that lies and what it must make (decision 0032).
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from merge_on_load import manifest
from merge_on_load.blobs import from_blob
from merge_on_load.checkpoint import data_begin, open_tensors, spec_in_file
from merge_on_load.codecs import Coding
from merge_on_load.errors import BadChain, CorruptPayload, MissingTensor, NotADelta, WrongBase
from merge_on_load.hashing import file_digest
from merge_on_load.manifest import SHORT_DIGEST, Entry, Manifest, Stored
from merge_on_load.memory import Room
from merge_on_load.names import MANIFEST_NAME, MOST_DELTAS, located
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import raw_bytes, tensor_digest
from merge_on_load.threads import parallel_map

FILES_NAME = "files"


class Delta:
    """An opened delta. `open` checks the manifest and the sizes, `verify` every byte.

    digest: hex SHA-256 of the manifest, which holds the digests of all else: its identity. parent:
    what it builds on; None: the base.
    """

    def __init__(
        self, path: Path, content: Manifest, digest: str, parent: "Delta | None" = None
    ) -> None:
        """Use `Delta.open`."""
        self.path = path
        self.manifest = content
        self.digest = digest
        self.parent = parent
        self._handles: dict[str, Any] = {}
        self._placed: dict[str, dict[str, tuple[int, int]]] = {}
        self._verified: dict[Path, tuple[int, int]] | None = None

    @classmethod
    def open(cls, path: Path) -> "Delta":
        """Read the manifest of a delta directory and check that its files are there in full; so
        for each delta that it builds on.

        Raises NotADelta, UnknownVersion, UnknownCodec, UnsupportedDtype, CorruptPayload, BadChain,
        WrongBase (the parent is another one).
        """
        return cls._open(Path(path), ())

    @classmethod
    def _open(cls, path: Path, children: tuple[Path, ...]) -> "Delta":
        """children: those that were opened on the way here, the last one first."""
        file = path / MANIFEST_NAME
        if not file.is_file():
            raise NotADelta(f"no {MANIFEST_NAME} here", file=path)
        content, digest = manifest.parse(file.read_bytes(), file)
        parent = cls._open_parent(path, content, (path, *children)) if content.parent else None
        delta = cls(path, content, digest, parent)
        for stored_file, stored in delta._files().items():
            _stamp(stored_file, stored)
        return delta

    @classmethod
    def _open_parent(cls, path: Path, content: Manifest, opened: tuple[Path, ...]) -> "Delta":
        told = content.parent
        assert told
        found = located(path, told.path)
        if os.path.realpath(found) in map(os.path.realpath, opened):
            raise BadChain("a delta builds on itself", file=path, found=told.path)
        check_depth(len(opened) + 1, path)
        try:
            parent = cls._open(found, opened)
        except NotADelta as error:
            raise BadChain(
                f"delta {path} builds on one that is not here", file=found, found=error.problem
            ) from error
        for wanted, made in (
            (content.base_fingerprint, parent.base_fingerprint),
            (told.fingerprint, parent.manifest.rebuilt_fingerprint),
        ):
            if wanted != made:
                problem = f"delta {path} builds on another one than lies here"
                raise WrongBase(problem, file=found, expected=wanted, found=made)
        return parent

    @property
    def chain(self) -> "list[Delta]":
        """What is added to the base, in that order: the parents from the bottom up, then this."""
        return [*(self.parent.chain if self.parent else ()), self]

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
        """Of the checkpoint at the bottom of the chain."""
        return self.manifest.base_fingerprint

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole directory, without the parent's."""
        stored = sum(stored.size_bytes for stored in self._files().values())
        return stored + (self.path / MANIFEST_NAME).stat().st_size

    @property
    def side_files(self) -> dict[str, Path]:
        """Side files that replace or join the base's, or the parent's, by name."""
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
        """Hash every file, then check that each part is there; the parents' first. Raises
        CorruptPayload.

        Files that have not been touched since this object last verified them pass at once.
        """
        if self.parent:
            self.parent.verify()
        files = self._files()
        stamps = {file: _stamp(file, stored) for file, stored in files.items()}
        if stamps == self._verified:
            return
        self._handles.clear()
        self._placed.clear()
        parallel_map(lambda pair: _check_digest(*pair), files.items(), is_apart=True)
        self._check_parts()
        self._verified = stamps

    def payload(self, name: str, room: Room | None = None) -> dict[str, torch.Tensor]:
        """The stored parts of one tensor, in memory of their own, or in `room` until that is used
        again.

        Compared with the manifest, whether or not `verify` was called: a file may have changed
        since. Raises CorruptPayload.
        """
        entry = self.entry(name)
        if entry.file is None:
            return {}
        file = self.path / entry.file
        blob = self._read(entry.file, entry.stored_as or name, room or Room())
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

    def _read(self, file: str, name: str, room: Room) -> torch.Tensor:
        """What is stored of one tensor, uint8[bytes]. Raises CorruptPayload."""
        begin, size = self._places(file).get(name, (0, -1))
        blob = room.of(max(0, size))
        with (self.path / file).open("rb") as opened:
            opened.seek(begin)
            if opened.readinto(raw_bytes(blob).data) != size:
                raise CorruptPayload("it is missing", file=self.path / file, tensor=name)
        return blob

    def _places(self, file: str) -> dict[str, tuple[int, int]]:
        """Where each tensor's bytes begin in a payload file, and how many they are."""
        if file not in self._placed:
            handle, placed = self._handle(file), {}
            begin = data_begin(self.path / file)
            for name in handle.offset_keys():  # the format leaves no gaps between tensors
                size = spec_in_file(self.path / file, handle, name).size_bytes
                placed[name] = begin, size
                begin += size
            self._placed[file] = placed
        return self._placed[file]

    def _check_parts(self) -> None:
        keys = {file: set(self._handle(file).keys()) for file in self.manifest.payloads}
        for name, entry in self.manifest.tensors.items():
            if entry.file is not None and (entry.stored_as or name) not in keys[entry.file]:
                raise CorruptPayload("it is missing", file=self.path / entry.file, tensor=name)

    def _handle(self, file: str) -> Any:
        if file not in self._handles:
            self._handles[file] = open_tensors(self.path / file)
        return self._handles[file]

    def _files(self) -> dict[Path, Stored]:
        payloads = {self.path / name: stored for name, stored in self.manifest.payloads.items()}
        kept = self.manifest.kept_files.items()
        return payloads | {self.path / FILES_NAME / name: stored for name, stored in kept}


def check_depth(count: int, path: Path) -> None:
    """Raise BadChain where so many deltas, the last of them at `path`, are too many for a chain."""
    if count > MOST_DELTAS:
        raise BadChain("too many deltas in one chain", file=path, expected=MOST_DELTAS)


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
    if found != stored.digest:
        raise CorruptPayload("file was altered", file=file, expected=stored.digest, found=found)
