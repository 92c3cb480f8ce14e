"""How small bit-exact deltas are, by method, and how fast they decode.

    python -m benchmarks.deltas.lossless BASE TUNED [BASE TUNED ...]

Methods other than ours are coded as their papers tell, tensor by tensor, and counted in favour of
them: FM-Delta's and the entropies are the least that any coder of that model can reach, without
their tables. ZipNN itself takes part where it is installed.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.deltas.speed import PAUSE_S, ROUND_COUNT, SPEC, random_weights
from merge_on_load import Checkpoint
from merge_on_load.codecs import CodecSettings, frames
from merge_on_load.codecs.lossless import LosslessCodec
from merge_on_load.tensors import raw_bytes
from merge_on_load.threads import parallel_map

ZSTD_LEVELS = (1, 3, 9, 19)
_FRAME_WORDS = 1 << 19
_ZIPNN = "zipnn"

Words = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.integer[Any]]
Figures = dict[str, Any]


def measure(pairs: Sequence[tuple[Path, Path]]) -> list[Figures]:
    """Of each (base, tuned), both bfloat16: its name, size, the share of weights that did not
    change, and the bytes that each method takes. "ours" is the payloads as they are stored.
    """
    return [_measure_pair(base, tuned) for base, tuned in pairs]


def measure_decoding() -> Figures:
    """Seconds of each round: ours to the weights; zstd to byte planes alone, which would still have
    to be put together and added; `copy_`. All on as many threads. And the bytes stored.
    """
    base, tuned = random_weights()
    codec = LosslessCodec(CodecSettings())
    payload = codec.encode("w", base, tuned)
    words, tuned_words = (raw_bytes(one).view(np.uint16) for one in (base, tuned))
    coded = list(_zstd_frames(_zigzag(tuned_words - words), 1))
    out = torch.empty_like(base)
    work: dict[str, Callable[[], object]] = {
        "copy_": partial(out.copy_, base),
        "ours": partial(codec.decode_into, out, base, payload),
        "zstd": partial(parallel_map, _unzip, coded, is_apart=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(ROUND_COUNT + 1):
        for name, run in work.items():
            time.sleep(PAUSE_S)
            run()
            began_s = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began_s)
    stored = {"ours": sum(part.nbytes for part in payload.values()), "zstd": sum(map(len, coded))}
    return {"weight_bytes": SPEC.size_bytes, "seconds": seconds, "stored_bytes": stored}


def _measure_pair(base: Path, tuned: Path) -> Figures:
    before, after = Checkpoint.open(base), Checkpoint.open(tuned)
    bits: dict[str, float] = defaultdict(float)
    unchanged = 0
    for name in before.names:
        first, second = before.read(name), after.read(name)
        words, tuned_words = (raw_bytes(one).view(np.uint16) for one in (first, second))
        unchanged += int((words == tuned_words).sum())
        payload = LosslessCodec(CodecSettings()).encode(name, first, second)
        bits["ours"] += 8 * sum(part.nbytes for part in payload.values())
        for method, taken in _others(words, tuned_words):
            bits[method] += taken
    return {
        "name": f"{tuned.parent.name}/{tuned.name}",
        "weight_bytes": before.size_bytes,
        "unchanged": unchanged / max(1, before.parameter_count),
        "bytes": {method: round(taken / 8) for method, taken in bits.items()},
    }


def _others(base: Words, tuned: Words) -> Iterator[tuple[str, float]]:
    """Each method, and the bits that one tensor takes by it."""
    difference, changed_bits = tuned - base, tuned ^ base
    zigzag = _zigzag(difference)
    for level in ZSTD_LEVELS:
        yield f"zstd {level}, difference", 8 * _size(_zstd_frames(zigzag, level))
    yield "zstd 1, XOR", 8 * _size(_zstd_frames(changed_bits, 1))
    yield "FM-Delta", fm_delta_bits(difference)
    yield "entropy of bytes, difference", _entropy(zigzag & 255) + _entropy(zigzag >> 8)
    yield "entropy of words, difference", _entropy(zigzag)
    yield "entropy of exponents, tuned", _entropy(tuned >> 7 & 255) + 8 * tuned.size
    if has_zipnn():
        for title, words in (("difference", zigzag), ("XOR", changed_bits), ("tuned", tuned)):
            yield f"ZipNN, {title}", 8 * _zipnn_bytes(words)


def fm_delta_bits(difference: Words) -> float:
    """The entropy of (sign, position of the highest bit), and the bits below that one."""
    signed = difference.view(np.int16).astype(np.int64)
    # A float64's own exponent: exact, as every integer of 16 bits is one.
    positions = np.frexp(np.abs(signed).astype(np.float64))[1]  # 0 for zero, else 1 and up
    return _entropy(2 * positions + (signed < 0)) + float(np.maximum(positions - 1, 0).sum())


def has_zipnn() -> bool:
    """Whether PyPI's zipnn can be imported."""
    try:
        importlib.import_module(_ZIPNN)
    except ImportError:
        return False
    return True


def _zipnn_bytes(words: Words) -> int:
    zipnn = importlib.import_module(_ZIPNN)
    coder = zipnn.ZipNN(bytearray_dtype="bfloat16", threads=1)
    return len(coder.compress(bytes(words.tobytes())))  # it changes what it is given


def _zigzag(difference: Words) -> Words:
    signed = difference.view(np.int16)
    return ((signed << 1) ^ (signed >> 15)).view(np.uint16)


def _zstd_frames(words: Words, level: int) -> Iterator[bytes]:
    """Byte planes as zstd frames, a megabyte of words each."""
    for begin in range(0, words.size, _FRAME_WORDS):
        piece = words[begin : begin + _FRAME_WORDS]
        for plane in (piece & 255, piece >> 8):
            yield frames.compress(plane.astype(np.uint8), level)


def _unzip(frame: bytes) -> object:
    return frames.content(memoryview(frame))


def _size(pieces: Iterator[bytes]) -> int:
    return sum(map(len, pieces))


def _entropy(values: Counts) -> float:
    """Bits that all of them take by how often each occurs."""
    counts = np.bincount(values.astype(np.int64))
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def main() -> int:
    """See the module."""
    given = [Path(one) for one in sys.argv[1:]]
    for found in measure(list(zip(given[::2], given[1::2], strict=True))):
        sys.stdout.write(f"{found['name']}: {found['unchanged']:.1%} unchanged\n")
        for method, size in sorted(found["bytes"].items(), key=lambda pair: pair[1]):
            sys.stdout.write(f"  {found['weight_bytes'] / size:7.3f}  {method}\n")
    decoding = measure_decoding()
    for name, seconds in decoding["seconds"].items():
        rate = decoding["weight_bytes"] / statistics.median(seconds) / 1e9
        sys.stdout.write(f"decoding, {name}: {rate:.2f} GB/s\n")
    sys.stdout.write(json.dumps(decoding["stored_bytes"]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
