"""Fine-tuned checkpoint + base -> delta, one tensor at a time."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Protocol

from merge_on_load import __version__
from merge_on_load.aside import check_output_apart, written_aside
from merge_on_load.built_model import BuiltModel
from merge_on_load.checkpoint import Checkpoint, fingerprint_of
from merge_on_load.codecs import AUTO, SAME, CodecSettings, Coding, Layout, Payload, make_codec
from merge_on_load.delta import FILES_NAME, Delta, check_depth
from merge_on_load.delta_writer import PayloadWriter
from merge_on_load.errors import MissingTensor, ShapeMismatch
from merge_on_load.hashing import file_digest
from merge_on_load.manifest import SHORT_DIGEST, Entry, Manifest, Parent, Stored, render
from merge_on_load.measure import ErrorSums
from merge_on_load.names import MANIFEST_NAME
from merge_on_load.progress import Progress, silent
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import tensor_digest

if TYPE_CHECKING:
    from merge_on_load.calibration.distilling import Tuned
    from merge_on_load.calibration.judge import Judge

_FLOATS = ("F16", "BF16", "F32", "F64")


def pack(
    base: Path,
    model: Path,
    codec: str,
    out: Path,
    *,
    embeddings: str | None = None,
    settings: Mapping[str, int] | None = None,
    layout: "AnyLayout | None" = None,
    judge: "Judge | None" = None,
    parent: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    created_at: str | None = None,
) -> Delta:
    """Store `model` as its difference from `base` in the delta directory `out`.

    codec: one of CODEC_NAMES, maybe with settings, such as "sparse:keep=32,bits=2"; embeddings: the
    same for these; see `Layout`. settings: what holds where these tell nothing, see
    `CodecSettings`. layout: in place of codec and embeddings. judge: of the same model; distils
    what can learn, and measures quality into the manifest. parent: a delta of `base`,
    from whose result the difference is taken; `out` tells where it lies, seen from there.
    progress: called with done and total bytes of the model after each tensor. created_at: kept in
    the lineage; left out by default, so that packing again gives the same bytes. Memory: a few
    tensors; with a judge that distils, the whole model several times.
    Raises MissingTensor, ShapeMismatch, NonFinite, UnknownCodec, OutputExists and as
    `Checkpoint.open` does, with a parent also BadChain and as `stream`; then nothing stands under
    `out`.
    """
    base, model, out = Path(base), Path(model), Path(out)
    usual = CodecSettings.from_dict(settings or {})
    chosen = layout or Layout.parse(codec, embeddings, usual)
    check_output_apart(out, (base, model))
    start = Start.open(base, parent, out)
    opened = Checkpoint.open(model)
    lineage = {
        "model_name": opened.path.resolve().name,
        "model_fingerprint": opened.fingerprint(),
        "made_by": f"merge_on_load {__version__}",
        **({"created_at": created_at} if created_at is not None else {}),
    }
    packer = _Packer(start, opened, chosen, lineage, judge)
    return _written(packer, out, overwrite, progress)


def repack(
    base: Path,
    delta: Path,
    codec: str,
    out: Path,
    *,
    embeddings: str | None = None,
    settings: Mapping[str, int] | None = None,
    flatten: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Delta:
    """Store what `delta` makes of `base` by another codec, without a checkpoint in between.

    The lineage says which delta it was; where that one was lossy, what it lost stays lost. It keeps
    its parent; flatten: it has none any more. For all else, see `pack`. Raises what `pack` and
    `stream` raise.
    """
    base, delta, out = Path(base), Path(delta), Path(out)
    layout = Layout.parse(codec, embeddings, CodecSettings.from_dict(settings or {}))
    check_output_apart(out, (base, delta))
    opened = Delta.open(delta)
    parent = opened.parent.path if opened.parent and not flatten else None
    start = Start.open(base, parent, out)
    lineage = {**opened.lineage, "repacked_from": {"codec": opened.codec, "digest": opened.digest}}
    packer = _Packer(start, BuiltModel(start.base, opened), layout, lineage)
    return _written(packer, out, overwrite, progress)


def _written(packer: "_Packer", out: Path, overwrite: bool, progress: Progress | None) -> Delta:
    with written_aside(out, overwrite=overwrite) as directory:
        content = packer.write(directory, progress or silent)
        (directory / MANIFEST_NAME).write_bytes(render(content)[0])
    return Delta.open(out)


@dataclass(frozen=True)
class Start:
    """What a difference is taken from. model: the base, or what it and the parent make."""

    base: Checkpoint
    model: Checkpoint | BuiltModel
    parent: Parent | None = None

    @classmethod
    def open(cls, base: Path, parent: Path | None, out: Path) -> "Start":
        """Raises as `stream`, and BadChain, OutputExists."""
        opened = Checkpoint.open(base)
        if parent is None:
            return cls(opened, opened)
        delta = Delta.open(parent)
        check_output_apart(out, [one.path for one in delta.chain])
        check_depth(len(delta.chain) + 1, out)
        model = BuiltModel(opened, delta)
        place = os.path.relpath(delta.path.resolve(), out.parent.resolve() / out.name)
        return cls(opened, model, Parent(Path(place).as_posix(), model.fingerprint()))


class AnyLayout(Protocol):
    """What stores which tensor."""

    @property
    def codec(self) -> str:
        """What the whole delta is called after."""
        ...

    def coding(self, name: str, base: TensorSpec, tuned: TensorSpec) -> Coding:
        """Of one tensor."""
        ...


class _Packer:
    """One packing: start and model, what stores which tensor, and what has been measured so far."""

    def __init__(
        self,
        start: Start,
        model: Checkpoint | BuiltModel,
        layout: "AnyLayout",
        lineage: dict[str, Any],
        judge: "Judge | None" = None,
    ) -> None:
        self._start = start
        self._base = start.model
        self._model = model
        self._layout = layout
        self._lineage = lineage
        self._judge = judge
        self._digests: dict[str, str] = {}
        self._errors = ErrorSums()
        _check_same_tensors(self._base, self._model)
        self._twins = twins(self._base, self._model)

    def write(self, directory: Path, progress: Progress) -> Manifest:
        """Write payloads and side files; returns the manifest that describes them."""
        tensors: dict[str, Entry] = {}
        done = 0
        learned = self._judge.distilled(self._lossy_tensors()) if self._judge else {}
        with PayloadWriter(directory, self._base.names) as payloads:
            for name in self._base.names:
                if name in self._twins:
                    tensors[name] = self._as_its_twin(name, tensors[self._twins[name]])
                else:
                    tensors[name] = self._write_tensor(name, payloads, learned.pop(name, None))
                done += tensors[name].spec.size_bytes
                progress(done, self._model.size_bytes)
            stored = payloads.finish()
        kept, from_base = _write_side_files(self._base, self._model, directory / FILES_NAME)
        return Manifest(
            codec=_called(self._layout.codec, tensors),
            base_fingerprint=self._start.base.fingerprint(),
            base_name=self._start.base.path.resolve().name,
            tensors=tensors,
            payloads=stored,
            kept_files=kept,
            base_files=from_base,
            rebuilt_fingerprint=fingerprint_of(self._model.specs, self._digests),
            lineage=self._lineage,
            measured=self._measured(tensors, stored, kept),
            parent=self._start.parent,
        )

    def _lossy_tensors(self) -> dict[str, "Tuned"]:
        """Those that may learn, all of them in memory."""
        from merge_on_load.calibration.distilling import Tuned

        found = {}
        for name in self._base.names:
            if name in self._twins:
                continue
            coding = self._layout.coding(name, self._base.spec(name), self._model.spec(name))
            if coding.codec != "lossless" and not is_unchanged(self._base, self._model, name):
                found[name] = Tuned(coding, self._base.read(name), self._model.read(name))
        return found

    def _write_tensor(self, name: str, payloads: PayloadWriter, learned: Payload | None) -> Entry:
        spec = self._model.spec(name)
        if is_unchanged(self._base, self._model, name):
            self._digests[name] = self._model.tensor_digests()[name]
            return Entry(SAME, spec, self._digests[name][:SHORT_DIGEST])
        coding = self._layout.coding(name, self._base.spec(name), spec)
        codec = make_codec(coding.codec, coding.settings)
        base, tuned = self._base.read(name), self._model.read(name)
        payload = learned or codec.encode(name, base, tuned)
        if coding.codec == "lossless":
            rebuilt = tuned
            self._digests[name] = self._model.tensor_digests()[name]
        else:
            rebuilt = codec.decode(base, payload, spec)
            self._errors.add(coding.codec, name, base, tuned, rebuilt)
            self._digests[name] = tensor_digest(rebuilt)
        if self._judge:
            self._judge.take(name, rebuilt)
            for other in (other for other, twin in self._twins.items() if twin == name):
                self._judge.take(other, rebuilt)
        digest = self._digests[name][:SHORT_DIGEST]
        return Entry(coding.codec, spec, digest, *payloads.add(name, payload), coding.settings)

    def _as_its_twin(self, name: str, twin: Entry) -> Entry:
        self._digests[name] = self._digests[self._twins[name]]
        return twin if twin.codec == SAME else replace(twin, stored_as=self._twins[name])

    def _measured(
        self, tensors: dict[str, Entry], payloads: dict[str, Stored], kept: dict[str, Stored]
    ) -> dict[str, Any]:
        payload_bytes = sum(stored.size_bytes for stored in payloads.values())
        kept_bytes = sum(stored.size_bytes for stored in kept.values())
        return {
            "size_bytes": payload_bytes + kept_bytes,
            "full_size_bytes": self._model.size_bytes,
            "parameter_count": self._model.parameter_count,
            "bits_per_parameter": 8 * payload_bytes / max(1, self._model.parameter_count),
            "tensor_count_by_codec": dict(
                sorted(Counter(entry.codec for entry in tensors.values()).items())
            ),
            "relative_error": self._errors.relative_errors(),
            **({"quality": self._judge.measured()} if self._judge else {}),
        }


def is_unchanged(base: Checkpoint | BuiltModel, model: Checkpoint | BuiltModel, name: str) -> bool:
    """Whether a tensor is the base's, bit for bit."""
    digests = base.tensor_digests()[name], model.tensor_digests()[name]
    return base.spec(name) == model.spec(name) and digests[0] == digests[1]


def twins(base: Checkpoint | BuiltModel, model: Checkpoint | BuiltModel) -> dict[str, str]:
    """Tensors that are another, earlier one's copy in both models, as tied weights may be stored:
    name -> that one's. They stay copies, whatever codec stores it.
    """
    firsts: dict[object, str] = {}
    found = {}
    for name in base.names:
        specs = base.spec(name), model.spec(name)
        digests = base.tensor_digests()[name], model.tensor_digests()[name]
        first = firsts.setdefault((specs, digests), name)
        if first != name:
            found[name] = first
    return found


def _called(codec: str, tensors: Mapping[str, Entry]) -> str:
    """What the whole delta is called after: where tensors have codecs of their own, the one that
    stores most.
    """
    if codec != AUTO:
        return codec
    weights: Counter[str] = Counter()
    for entry in tensors.values():
        weights[entry.codec] += entry.spec.size_bytes if entry.codec != SAME else 0
    ((most, count),) = weights.most_common(1) or [(SAME, 0)]
    return most if count else "lossless"


def _check_same_tensors(base: Checkpoint | BuiltModel, model: Checkpoint | BuiltModel) -> None:
    """Raise MissingTensor or ShapeMismatch unless both hold the same names and shapes."""
    base_names, model_names = set(base.names), set(model.names)
    if lost := sorted(base_names - model_names):
        raise MissingTensor("the model lacks a tensor of the base", file=model.path, tensor=lost[0])
    if extra := sorted(model_names - base_names):
        raise MissingTensor("the base lacks a tensor of the model", file=base.path, tensor=extra[0])
    for name in base.names:
        expected, found = base.spec(name), model.spec(name)
        if expected.shape != found.shape or not _can_reconcile(expected, found):
            raise ShapeMismatch(
                "tensor differs from the base's in shape or kind",
                file=model.path,
                tensor=name,
                expected=expected,
                found=found,
            )


def _can_reconcile(base: TensorSpec, tuned: TensorSpec) -> bool:
    return base.dtype == tuned.dtype or (base.dtype in _FLOATS and tuned.dtype in _FLOATS)


def _write_side_files(
    base: Checkpoint | BuiltModel, model: Checkpoint | BuiltModel, directory: Path
) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """Copy the side files that differ from the base's; returns (kept, the base's own)."""
    kept: dict[str, Stored] = {}
    from_base: dict[str, Stored] = {}
    base_files = base.side_files
    for name, source in model.side_files.items():
        stored = Stored(file_digest(source), source.stat().st_size)
        if name in base_files and file_digest(base_files[name]) == stored.digest:
            from_base[name] = stored
            continue
        directory.mkdir(exist_ok=True)
        copyfile(source, directory / name)
        kept[name] = stored
    return kept, from_base
