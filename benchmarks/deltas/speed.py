"""How fast each codec decodes and adds, beside torch.Tensor.copy_ on the same tensor, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from merge_on_load import apply_into
from merge_on_load.calibration.ladder import thin
from merge_on_load.codecs import Coding, make_codec
from merge_on_load.codecs.codec import write_rows
from merge_on_load.memory import ask_for_huge_pages
from merge_on_load.specs import TensorSpec
from merge_on_load.threads import thread_count

SHAPE = (4096, 11008)  # an MLP's matrix of a 7B model: 90 MB in bfloat16
ROUND_COUNT = 11
RUN_COUNT = 7  # of each round, of which the fastest counts: others may have met a busy CPU
PAUSE_S = 0.3  # torch's own threads wait for more work on a core before they sleep
SPEC = TensorSpec("BF16", SHAPE)
CODINGS = (
    *("lossless", "int8", "int4", "int3", "int2", "onebit", "onebit:scales=1", "onebit:scales=2"),
    *("sparse:keep=16", "sparse:keep=32", "topk:keep=16,bits=1", "topk:keep=16,bits=4"),
    *("lowrank:rank4=8", "lowrank:rank4=16", "lowrank:rank4=32", "lowrank:rank4=16,residual=1"),
    str(thin(0.3, SPEC)),
)

Figures = dict[str, Any]


def measure() -> Figures:
    """Seconds of each round's fastest run, by coding: `write` from expanded parts as a switch does,
    `apply` from the payload as a load does; and of `copy_` in the same round. All into memory that
    is there, on as many threads.
    """
    torch.set_num_threads(thread_count())
    base, tuned = random_weights()
    out = torch.empty(SHAPE, dtype=torch.bfloat16)
    ask_for_huge_pages(out)  # as `load` does
    found: Figures = {}
    for text in CODINGS:
        coding = Coding.parse(text)
        codec = make_codec(coding.codec, coding.settings)
        payload = codec.encode(text, base, tuned)
        parts = codec.expand(base, payload, SPEC)
        work: dict[str, Callable[[], object]] = {
            "copy_": partial(out.copy_, base),
            "write": partial(write_rows, codec, base, parts, out),
            "apply": partial(apply_into, out, base, payload, codec),
        }
        for run in work.values():  # compiles, and touches all memory
            run()
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(ROUND_COUNT):
            for name, run in work.items():
                time.sleep(PAUSE_S)
                run()  # its own threads are awake now, and no others
                seconds[name].append(min(_seconds(run) for _ in range(RUN_COUNT)))
        stored = sum(part.nbytes for part in payload.values())
        found[text] = {"seconds": seconds, "stored_bytes": stored}
    return {"weight_bytes": SPEC.size_bytes, "codings": found}


def _seconds(run: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s


def share_of_copy(seconds: dict[str, list[float]], what: str) -> float:
    """The bandwidth beside copy_'s: median over the rounds."""
    pairs = zip(seconds["copy_"], seconds[what], strict=True)
    return statistics.median(copy_s / done_s for copy_s, done_s in pairs)


def random_weights() -> tuple[torch.Tensor, torch.Tensor]:
    """Random: a base, and one that has moved a little."""
    random = torch.Generator().manual_seed(0)
    base = torch.randn(SHAPE, generator=random) * 0.02
    moved = base + torch.randn(SHAPE, generator=random) * 0.001
    return base.bfloat16(), moved.bfloat16()
