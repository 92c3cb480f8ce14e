"""A delta made ready for switching: checked and decompressed once, so that only adding is left.

One safetensors file holds the parts that `Codec.write` needs: signs and scales as they are stored,
8-bit values without zstd, and for lossless tensors the result itself, as for those that several
deltas of a chain change (decision 0032). What equals the base takes no room. The file may be one
that lives in memory (`os.memfd_create`), mapped by many processes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merge_on_load.building import Built
from merge_on_load.checkpoint import Checkpoint, open_tensors
from merge_on_load.codecs import SAME, Codec, CodecSettings, Coding, Payload, cut, make_codec
from merge_on_load.delta import Delta
from merge_on_load.errors import CorruptPayload, MergeError, MissingTensor
from merge_on_load.floats import copy_words, matrix
from merge_on_load.recipes.merging import Merged
from merge_on_load.specs import TensorSpec, row_count_and_width
from merge_on_load.tensor_out import OutFile, TensorOut
from merge_on_load.tensorfile import render_header
from merge_on_load.tensors import raw_bytes
from merge_on_load.threads import parallel_map

_FORMAT = "deltafleet.prepared 3"


def prepare(base: Checkpoint, delta: Delta | Merged, file: Path) -> None:
    """Write `file` for `Prepared.open`; what stands there is replaced.

    Everything that can be wrong is found here, not in a switch. The header is written last, so
    what an error leaves cannot be opened. Memory: a tensor for each of a few threads.
    Of a recipe, all tensors are computed now, on all cores. Raises what `stream` raises.
    """
    built = Built(base, delta)  # checks that they belong together
    content = _Content.of(delta)
    header = render_header(content.part_specs(), content.metadata())
    offsets = _offsets(content.part_specs(), len(header))
    with file.open("wb") as opened:
        out = OutFile(opened.fileno(), direct=None)
        if isinstance(delta, Merged):
            delta.write(
                lambda job: TensorOut(
                    out, offsets[_key(job.tensor, "tensor")], job.words, job.spec.size_bytes
                )
            )
        else:

            def write_parts(name: str) -> None:
                for part, tensor in _expand(built, base, delta, name).items():
                    out.write(raw_bytes(tensor).data, offsets[_key(name, part)])

            parallel_map(write_parts, base.names)
        out.write(memoryview(header), 0)


def prepared_size_bytes(delta: Delta | Merged) -> int:
    """Size of the file that `prepare` will write, from the manifest, or the plan, alone."""
    content = _Content.of(delta)
    specs = content.part_specs()
    return len(render_header(specs, content.metadata())) + sum(s.size_bytes for s in specs.values())


def prepared_tensor_bytes(coding: Coding, spec: TensorSpec) -> int:
    """What one tensor of `spec` takes of such a file, the header besides."""
    parts = make_codec(coding.codec, coding.settings).parts(spec)
    return sum(one.size_bytes for one in parts.values())


class Prepared:
    """The file that `prepare` wrote, mapped; every result is base + parts."""

    def __init__(
        self,
        size_bytes: int,
        entries: Mapping[str, tuple[Codec | None, TensorSpec]],
        parts: Mapping[str, Payload],
    ) -> None:
        """Use `Prepared.open`. entries: tensor name -> codec (None: it is the base's), spec of the
        result.
        """
        self.size_bytes = size_bytes
        self._entries = entries
        self._parts = parts

    @classmethod
    def open(cls, path: Path) -> "Prepared":
        """Map the file: it may be closed and its name may go, the mapping stays while this lives.

        Raises CorruptPayload unless it is one that `prepare` finished.
        """
        handle = open_tensors(path)
        try:
            told = json.loads((handle.metadata() or {})[_FORMAT])
            settings = [CodecSettings.from_dict(one) for one in told["settings"]]
            entries = {
                name: (
                    None if codec == SAME else make_codec(str(codec), settings[number]),
                    TensorSpec(dtype, tuple(shape)),
                )
                for name, (codec, number, dtype, shape) in told["tensors"].items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptPayload(f"not a prepared delta: {error!r}", file=path) from error
        parts = {
            name: {part: handle.get_tensor(_key(name, part)) for part in codec.parts(spec)}
            for name, (codec, spec) in entries.items()
            if codec is not None
        }
        return cls(path.stat().st_size, entries, parts)

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def spec(self, name: str) -> TensorSpec:
        """dtype and shape of the result. Raises MissingTensor."""
        return self._entry(name)[1]

    def write(
        self, name: str, base: torch.Tensor, out: torch.Tensor, rows: slice | None = None
    ) -> None:
        """Fill `out` with rows of the result: base + delta, the bits that `stream` gives.

        base: the base's whole tensor, contiguous. out: contiguous, of the result's dtype, as many
        elements as those rows have; rows count all leading axes, None takes all. Parts that are not
        on the device of `out` and `base` are copied there. On a CPU: one thread, one pass.
        Raises MissingTensor; ValueError where `out` does not fit, before anything is written.
        """
        codec, spec = self._entry(name)
        whole = slice(0, row_count_and_width(spec.shape)[0])
        taken = slice(*(rows or whole).indices(whole.stop)[:2])
        from_rows = matrix(base)[taken]
        if out.dtype != spec.torch_dtype or out.numel() != from_rows.numel():
            raise ValueError(
                f"{name}: {spec} of which {taken} does not fit {out.shape} {out.dtype}"
            )
        if not out.is_contiguous():
            raise ValueError(f"{name}: what is written to must be contiguous")
        to_rows = out.view(from_rows.shape)
        if codec is None:
            copy_words(from_rows, to_rows)
            return
        parts = cut(codec, self._parts[name], taken)
        if out.device.type != "cpu":
            parts = {part: one.to(out.device, non_blocking=True) for part, one in parts.items()}
        codec.write(from_rows, parts, to_rows)

    def to(self, device: torch.device) -> "Prepared":
        """The same with all parts on a device."""
        parts = {
            name: {part: tensor.to(device) for part, tensor in tensors.items()}
            for name, tensors in self._parts.items()
        }
        return Prepared(self.size_bytes, self._entries, parts)

    def _entry(self, name: str) -> tuple[Codec | None, TensorSpec]:
        try:
            return self._entries[name]
        except KeyError:
            raise MissingTensor("no such tensor in the prepared delta", tensor=name) from None


def _changing(delta: Delta, name: str) -> list[Delta]:
    """The deltas of its chain that change a tensor."""
    return [one for one in delta.chain if one.entry(name).codec != SAME]


def _expand(built: Built, base: Checkpoint, delta: Delta, name: str) -> Payload:
    """Of one tensor: nothing of what equals the base's; the parts that its one delta has; what all
    of them make, where several change it.
    """
    changing = _changing(delta, name)
    if len(changing) > 1:
        return {"tensor": matrix(built.read(name))}
    delta = changing[0] if changing else delta
    entry = delta.entry(name)
    if entry.codec == SAME:
        if (found := base.spec(name)) != entry.spec:
            raise CorruptPayload(
                "not the base's tensor",
                file=delta.path,
                tensor=name,
                expected=entry.spec,
                found=found,
            )
        return {}
    codec = make_codec(entry.codec, entry.settings)
    try:
        return codec.expand(base.read(name), delta.payload(name), entry.spec)
    except MergeError as error:
        raise error.located(file=delta.path, tensor=name) from error


def _key(name: str, part: str) -> str:
    """Of one part of one tensor; `part` holds no dot."""
    return f"{name}.{part}"


def _offsets(specs: Mapping[str, TensorSpec], begin: int) -> dict[str, int]:
    offsets = {}
    for key, spec in specs.items():
        offsets[key] = begin
        begin += spec.size_bytes
    return offsets


def _whole(spec: TensorSpec) -> tuple[str, CodecSettings, TensorSpec]:
    """A tensor that is kept as it results, as `_Content` has it."""
    return "lossless", CodecSettings(), spec


@dataclass(frozen=True, slots=True)
class _Content:
    """What a prepared file holds. entries: tensor name -> codec, settings, spec of the result."""

    entries: Mapping[str, tuple[str, CodecSettings, TensorSpec]]

    @classmethod
    def of(cls, delta: Delta | Merged) -> "_Content":
        if isinstance(delta, Delta):
            return cls({name: cls._entry(delta, name) for name in delta.manifest.tensors})
        return cls({name: _whole(delta.spec(name)) for name in delta.names})

    @staticmethod
    def _entry(delta: Delta, name: str) -> tuple[str, CodecSettings, TensorSpec]:
        changing = _changing(delta, name)
        if len(changing) > 1:
            return _whole(delta.spec(name))
        entry = (changing[0] if changing else delta).entry(name)
        return entry.codec, entry.settings, entry.spec

    def part_specs(self) -> dict[str, TensorSpec]:
        """Every part by its key, widest dtype first, so that each lies aligned."""
        specs = {
            _key(name, part): part_spec
            for name, (codec, settings, spec) in self.entries.items()
            if codec != SAME
            for part, part_spec in make_codec(codec, settings).parts(spec).items()
        }
        return dict(sorted(specs.items(), key=lambda item: -item[1].item_bytes))

    def metadata(self) -> dict[str, str]:
        """For the header: what `Prepared.open` reads."""
        settings = list(dict.fromkeys(one for _, one, _ in self.entries.values()))
        tensors = {
            name: [codec, settings.index(one), spec.dtype, list(spec.shape)]
            for name, (codec, one, spec) in self.entries.items()
        }
        told: dict[str, Any] = {
            "settings": [one.to_dict() for one in settings],
            "tensors": tensors,
        }
        return {_FORMAT: json.dumps(told, separators=(",", ":"))}
