"""`delta.json`: what a delta holds, as a frozen value that is read and written byte for byte.

The last key, `digest`, is the SHA-256 of the rest, and reading refuses a file that is not exactly
what writing its content would give. So any altered byte is found.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from merge_on_load.codecs import CODEC_NAMES, SAME, CodecSettings, Coding
from merge_on_load.errors import (
    CorruptPayload,
    MergeError,
    NotADelta,
    UnknownCodec,
    UnknownVersion,
)
from merge_on_load.specs import TensorSpec

FORMAT = "deltafleet.delta"
VERSION = 4
SHORT_DIGEST = 16  # hex digits: enough to tell which tensor is another one

T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """A file as it must be found: BLAKE3 (hex) and size."""

    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Entry:
    """One tensor: codec ("same" stores nothing), spec of the result, payload file, settings.

    digest: the first SHORT_DIGEST digits of the BLAKE3 of the rebuilt tensor's bytes;
    stored_digest: of what is stored for it, "" where that is nothing. stored_as: the tensor under
    whose name that is, None for its own: a tied weight that has two names is stored once.
    """

    codec: str
    spec: TensorSpec
    digest: str
    file: str | None = None
    stored_digest: str = ""
    settings: CodecSettings = field(default_factory=CodecSettings)
    stored_as: str | None = None


@dataclass(frozen=True)
class Parent:
    """The delta that a delta builds on. path: its directory, relative to the delta's own.
    fingerprint: its `rebuilt_fingerprint`.
    """

    path: str
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """Everything `delta.json` says.

    base_fingerprint, base_name: of the checkpoint at the bottom, also where there is a parent.
    payloads: the payload files. kept_files: side files that differ from the base's, stored under
    `files/`. base_files: side files that are the base's, or the parent's. rebuilt_fingerprint: of
    the weights that result, see `Checkpoint.fingerprint`. measured: sizes and errors. lineage: what
    the delta was made from and how. parent: None for a delta of the base.
    """

    codec: str
    base_fingerprint: str
    base_name: str
    tensors: dict[str, Entry]
    payloads: dict[str, Stored]
    kept_files: dict[str, Stored]
    base_files: dict[str, Stored]
    rebuilt_fingerprint: str
    lineage: dict[str, Any]
    measured: dict[str, Any]
    parent: Parent | None = None


def render(manifest: Manifest) -> tuple[bytes, str]:
    """The file's content, and its digest: the identity of the delta."""
    codings = list(dict.fromkeys(_coding(entry) for entry in manifest.tensors.values()))
    files = sorted(manifest.payloads)
    stored_as = {name: one.stored_as for name, one in manifest.tensors.items() if one.stored_as}
    later = {
        **({"parent": asdict(manifest.parent)} if manifest.parent else {}),
        **({"stored_as": stored_as} if stored_as else {}),
    }
    body = {
        "format": FORMAT,
        "version": VERSION,
        "codec": manifest.codec,
        "base": {"fingerprint": manifest.base_fingerprint, "name": manifest.base_name},
        **later,
        "lineage": manifest.lineage,
        "measured": manifest.measured,
        "payloads": _render_files(manifest.payloads),
        "kept_files": _render_files(manifest.kept_files),
        "base_files": _render_files(manifest.base_files),
        "rebuilt_fingerprint": manifest.rebuilt_fingerprint,
        "codings": codings,
        "tensors": {
            name: [
                codings.index(_coding(entry)),
                entry.spec.dtype,
                list(entry.spec.shape),
                None if entry.file is None else files.index(entry.file),
                entry.digest,
                entry.stored_digest,
            ]
            for name, entry in manifest.tensors.items()
        },
    }
    return seal(body)


def parse(content: bytes, file: Path) -> tuple[Manifest, str]:
    """The manifest and its digest.

    Raises NotADelta, UnknownVersion, UnknownCodec, CorruptPayload.
    """
    body = _load(content, file)
    if body.get("format") != FORMAT:
        raise NotADelta("not a delta", file=file, expected=FORMAT, found=body.get("format"))
    if (found := body.get("version")) != VERSION:
        raise UnknownVersion("unknown format version", file=file, expected=VERSION, found=found)
    digest = _check_seal(body, content, file)
    try:
        return _read_body(body, file), digest
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptPayload(f"malformed delta: {error!r}", file=file) from error


def seal(body: Mapping[str, Any]) -> tuple[bytes, str]:
    digest = hashlib.sha256(_dump(body)).hexdigest()
    return _dump({**body, "digest": digest}), digest


def _dump(body: Mapping[str, Any]) -> bytes:
    """One line for each key, so that the file can be looked at and yet is small."""
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False, separators=(',', ':'))}"
        for key, value in body.items()
    )
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _load(content: bytes, file: Path) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptPayload(f"malformed delta: {error}", file=file) from error
    if not isinstance(body, dict):
        raise NotADelta("not a delta", file=file, expected="an object", found=type(body).__name__)
    return body


def _check_seal(body: dict[str, Any], content: bytes, file: Path) -> str:
    told = body.pop("digest", None)
    try:
        expected, digest = seal(body)
    except ValueError as error:
        raise CorruptPayload(f"malformed delta: {error}", file=file) from error
    if told != digest or content != expected:
        raise CorruptPayload("delta was altered", file=file, expected=told, found=digest)
    return digest


def _read_body(body: Mapping[str, Any], file: Path) -> Manifest:
    payloads = _read_files(body["payloads"])
    codings = [_read_coding(str(text), file) for text in body["codings"]]
    stored_as = {str(name): str(other) for name, other in body.get("stored_as", {}).items()}
    if strange := (stored_as.keys() | set(stored_as.values())) - body["tensors"].keys():
        raise ValueError(f"no tensor {min(strange)!r} to be stored as another")
    return Manifest(
        codec=_known_codec(str(body["codec"]), file),
        base_fingerprint=str(body["base"]["fingerprint"]),
        base_name=str(body["base"]["name"]),
        tensors={
            name: replace(
                _read_entry(name, told, sorted(payloads), codings, file),
                stored_as=stored_as.get(name),
            )
            for name, told in body["tensors"].items()
        },
        payloads=payloads,
        kept_files=_read_files(body["kept_files"]),
        base_files=_read_files(body["base_files"]),
        rebuilt_fingerprint=str(body["rebuilt_fingerprint"]),
        lineage=dict(body["lineage"]),
        measured=dict(body["measured"]),
        parent=_read_parent(body["parent"]) if "parent" in body else None,
    )


def _read_parent(told: Mapping[str, Any]) -> Parent:
    path = str(told["path"])
    if not path or "\0" in path or Path(path).is_absolute():
        raise ValueError(f"a parent lies relative to its delta, not at {path!r}")
    return Parent(path, str(told["fingerprint"]))


def _render_files(files: Mapping[str, Stored]) -> dict[str, Any]:
    return {
        name: {"blake3": stored.digest, "size_bytes": stored.size_bytes}
        for name, stored in sorted(files.items())
    }


def _read_files(files: Mapping[str, Any]) -> dict[str, Stored]:
    for name in files:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"file name {name!r} leaves its directory")
    return {
        name: Stored(str(stored["blake3"]), int(stored["size_bytes"]))
        for name, stored in files.items()
    }


def _coding(entry: Entry) -> str:
    return SAME if entry.codec == SAME else str(Coding(entry.codec, entry.settings))


def _read_coding(text: str, file: Path) -> Coding | None:
    """None where nothing is stored."""
    return None if text == SAME else _located(file, None, lambda: Coding.parse(text))


def _read_entry(
    name: str,
    told: Sequence[Any],
    files: Sequence[str],
    codings: Sequence[Coding | None],
    file: Path,
) -> Entry:
    number, dtype, shape, place, digest, stored_digest = told
    sizes = tuple(int(size) for size in shape)
    spec = _located(file, name, lambda: TensorSpec(str(dtype), sizes))
    coding = _one_of(codings, number, name)
    if coding is None:
        return Entry(SAME, spec, str(digest))
    payload = _one_of(files, place, name)
    return Entry(coding.codec, spec, str(digest), payload, str(stored_digest), coding.settings)


def _one_of(listed: Sequence[T], number: int, name: str) -> T:
    if type(number) is not int or not 0 <= number < len(listed):
        raise ValueError(f"tensor {name!r} points to number {number!r} of {len(listed)}")
    return listed[number]


def _known_codec(codec: str, file: Path) -> str:
    if codec not in CODEC_NAMES:
        raise UnknownCodec("unknown codec", file=file, expected=CODEC_NAMES, found=codec)
    return codec


def _located(file: Path, tensor: str | None, make: Callable[[], T]) -> T:
    """Run `make`; an error of ours is raised again with the file and the tensor it is about."""
    try:
        return make()
    except MergeError as error:
        raise error.located(file=file, tensor=tensor) from error
