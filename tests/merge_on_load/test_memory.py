"""Packing and unpacking hold a few tensors, not the model."""

import json
import subprocess
import sys

import numpy as np
import torch

from merge_on_load import CheckpointWriter, TensorSpec

TENSOR_COUNT = 20
SPEC = TensorSpec("BF16", (4096, 2048))  # 16.8 MB; 20 of them are 336 MB
ALLOWED_BYTES = 250_000_000

MEASURED = """
import json, sys, threading
import merge_on_load as library

library.pack, library.unpack, library.Delta  # imports count as nothing

def anonymous_bytes():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

peak = before = anonymous_bytes()
over = threading.Event()

def sample(*_):
    global peak
    peak = max(peak, anonymous_bytes())

def watch():
    while not over.wait(0.005):
        sample()

watcher = threading.Thread(target=watch)
watcher.start()
base, tuned, codec, delta, out = sys.argv[1:]
try:
    library.pack(base, tuned, codec, delta, progress=sample)
    library.unpack(base, delta, out, progress=sample)
finally:
    over.set()
    watcher.join()
print(json.dumps({"grown_bytes": peak - before}))
"""


def write_large(path, random, change):
    """Random words, the same for both models, and a small change of every word for the tuned."""
    words = random.integers(0x3A00, 0x3D00, SPEC.shape, dtype=np.int16)
    noise = random.integers(-20, 20, SPEC.shape, dtype=np.int16) if change else 0
    specs = {f"layers.{i}.weight": SPEC for i in range(TENSOR_COUNT)}
    with CheckpointWriter.open(path, specs, shard_limit_bytes=150_000_000) as writer:
        for i, name in enumerate(specs):
            tensor = torch.from_numpy(np.roll(words, i) + noise)
            writer.add(name, tensor.view(torch.bfloat16))


def test_packing_and_unpacking_hold_a_few_tensors(tmp_path):
    write_large(tmp_path / "base", np.random.default_rng(0), change=False)
    write_large(tmp_path / "tuned", np.random.default_rng(0), change=True)
    paths = [str(tmp_path / name) for name in ("base", "tuned", "t.delta", "out")]
    arguments = [*paths[:2], "lossless", *paths[2:]]

    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], check=True, capture_output=True, text=True
    )

    assert json.loads(done.stdout)["grown_bytes"] < ALLOWED_BYTES < TENSOR_COUNT * SPEC.size_bytes
