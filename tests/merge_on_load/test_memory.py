"""Packing and unpacking hold a few tensors, not the model."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from merge_on_load import CheckpointWriter, TensorSpec

TENSOR_COUNT = 20
SPEC = TensorSpec("BF16", (4096, 2048))  # 16.8 MB; 20 of them are 336 MB
ALLOWED_BYTES = 250_000_000
# The largest tensors of 7B models have 131 million weights; at so many bytes each, packing stays
# below 2 GiB with what the imports take.
ONE_SPEC = TensorSpec("BF16", (4096, 4096))
SMALL_SPEC = TensorSpec("BF16", (64, 64))
ALLOWED_BYTES_PER_WEIGHT = 12  # float32 twice, and what threads work on

MEASURED = """
import json, sys, threading
import merge_on_load as library

library.pack, library.unpack, library.Delta, library.Lora  # imports count as nothing

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
base, delta, out, *packed = sys.argv[1:]
try:
    if packed:
        library.pack(base, *packed, delta, progress=sample)
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

    grown_bytes = measure(tmp_path, "t.delta", str(tmp_path / "tuned"), "lossless")

    assert grown_bytes < ALLOWED_BYTES < TENSOR_COUNT * SPEC.size_bytes


@pytest.mark.parametrize("codec", ["int8", "int4", "onebit", "sparse", "topk", "lowrank"])
def test_packing_one_large_tensor_takes_a_few_bytes_a_weight(tmp_path, codec):
    for directory, spec in (("small", SMALL_SPEC), ("large", ONE_SPEC)):
        weights = 0.02 * np.random.default_rng(0).standard_normal(spec.shape, np.float32)
        (tmp_path / directory).mkdir()
        for name, change in (("base", 0.0), ("tuned", 0.001)):
            with CheckpointWriter.open(tmp_path / directory / name, {"a.weight": spec}) as writer:
                moved = weights + np.float32(change) * np.roll(weights, 1)
                writer.add("a.weight", torch.from_numpy(moved).bfloat16())
        # The small one's has kernels compiled, which takes more memory than they do.
        tuned = str(tmp_path / directory / "tuned")
        grown_bytes = measure(tmp_path / directory, "t.delta", tuned, codec)

    assert grown_bytes < ALLOWED_BYTES_PER_WEIGHT * ONE_SPEC.parameter_count


def test_merging_an_adapter_holds_a_few_tensors(tmp_path):
    write_large(tmp_path / "base", np.random.default_rng(0), change=False)
    write_adapter_of_large(tmp_path / "a.lora")

    grown_bytes = measure(tmp_path, "a.lora")

    assert grown_bytes < 6 * SPEC.size_bytes


def measure(directory, delta, *packed):
    """Bytes that a process of its own grows by when it packs, if told what, and unpacks."""
    paths = [str(directory / name) for name in ("base", delta, "out")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *paths, *packed],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)["grown_bytes"]


def write_adapter_of_large(path):
    """An adapter of rank 8 for every tensor, in the layout that PEFT documents."""
    path.mkdir()
    random = torch.Generator().manual_seed(0)
    halves = {
        f"base_model.model.layers.{i}.lora_{half}.weight": torch.randn(shape, generator=random)
        for i in range(TENSOR_COUNT)
        for half, shape in (("A", (8, SPEC.shape[1])), ("B", (SPEC.shape[0], 8)))
    }
    save_file(halves, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
    (path / "adapter_config.json").write_text(json.dumps(config))
