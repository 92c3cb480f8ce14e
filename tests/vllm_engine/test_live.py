"""Where tensors land, and what is written there, on small modules that load as vLLM's models do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merge_on_load import Checkpoint, Delta, Prepared, pack, prepare, stream
from model_pool.vllm.card import LeastRecent
from model_pool.vllm.landing import find_landings
from model_pool.vllm.live import LiveWeights

WIDTH = 40
SHAPES = {
    "embed_tokens.weight": (50, WIDTH),
    "gate.weight": (24, WIDTH),
    "up.weight": (24, WIDTH),
    "down.weight": (WIDTH, 24),
    "q.bias": (16,),
    "norm.weight": (WIDTH,),
    "unused": (3,),
}


class Sharded(torch.nn.Module):
    """One of two shards: gate and up fused and cut by rows, down cut by columns, the bias cut, the
    vocabulary padded with zeros, the head tied.
    """

    def __init__(self, rank: int, dtype: torch.dtype) -> None:
        super().__init__()

        def parameter(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.full(shape, 9, dtype=dtype), requires_grad=False)

        self.rank = rank
        self.embed = parameter(64, WIDTH)
        self.head = self.embed
        self.fused = parameter(24, WIDTH)
        self.down = parameter(WIDTH, 12)
        self.bias = parameter(8)
        self.norm = parameter(WIDTH)

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            self.place(name, tensor)

    def place(self, name: str, tensor: torch.Tensor) -> None:
        part = self.rank * 12
        if name == "embed_tokens.weight":
            self.embed[:50].data.copy_(tensor)
            self.embed[50:].data.fill_(0)
        elif name in ("gate.weight", "up.weight"):
            to = self.fused.data.narrow(0, 12 * (name == "up.weight"), 12)
            to.copy_(tensor.narrow(0, part, 12))
        elif name == "down.weight":
            self.down.data.copy_(tensor.narrow(1, part, 12))
        elif name == "q.bias":
            self.bias.data.copy_(tensor.narrow(0, self.rank * 8, 8))
        elif name == "norm.weight":
            self.norm.data.copy_(tensor)


class Computing(Sharded):
    """Does more than copying with one tensor, as a model that stores a norm plus one does."""

    def place(self, name: str, tensor: torch.Tensor) -> None:
        if name == "norm.weight":
            self.norm.data.copy_(tensor + 1)
        else:
            super().place(name, tensor)


class ComputingLater(Sharded):
    """Changes a fused parameter once one of the tensors in it is there."""

    def place(self, name: str, tensor: torch.Tensor) -> None:
        super().place(name, tensor)
        if name == "up.weight":
            self.fused.data[:12].mul_(2)


class Replacing(Sharded):
    """Puts new memory behind a parameter."""

    def place(self, name: str, tensor: torch.Tensor) -> None:
        super().place(name, tensor)
        if name == "norm.weight":
            self.norm.data = tensor.to(self.norm.dtype, copy=True)


MODELS = [Sharded, Computing, ComputingLater, Replacing]


@pytest.fixture(scope="module", params=["onebit", "int8", "lossless"])
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Delta, Prepared]:
    root: Path = tmp_path_factory.mktemp("live")
    torch.manual_seed(0)
    base = {name: torch.randn(shape).bfloat16() for name, shape in SHAPES.items()}
    tuned = {
        name: one * (1 + 0.01 * torch.randn(one.shape)).bfloat16() for name, one in base.items()
    }
    tuned["down.weight"] = base["down.weight"].clone()
    for name, tensors in (("base", base), ("tuned", tuned)):
        (root / name).mkdir()
        save_file(tensors, root / name / "model.safetensors")
    delta = pack(root / "base", root / "tuned", request.param, root / "t.delta")
    opened = Checkpoint.open(root / "base")
    prepare(opened, delta, root / "prepared")
    return opened, delta, Prepared.open(root / "prepared")


def parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [one.detach().clone() for one in model.parameters()]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("thread_count", [1, 3])
def test_what_is_written_is_what_the_model_would_have_loaded(
    checkpoint: tuple[Checkpoint, Delta, Prepared],
    kind: type[Sharded],
    rank: int,
    dtype: torch.dtype,
    thread_count: int,
) -> None:
    base, delta, prepared = checkpoint
    expected = kind(rank, dtype)
    model = kind(rank, dtype)
    live = LiveWeights(model, base, torch.device("cpu"), thread_count=thread_count)

    for wanted in (prepared, None, prepared, None):
        expected.load_weights(stream(base, None if wanted is None else delta))
        live.write(wanted)
        for found, one in zip(parameters(model), parameters(expected), strict=True):
            assert torch.equal(found, one)
    live.close()


def test_plain_copies_are_found_and_what_is_computed_is_left_to_the_model(
    checkpoint: tuple[Checkpoint, Delta, Prepared],
) -> None:
    tensors = {name: checkpoint[0].read(name) for name in checkpoint[0].names}
    used = set(SHAPES) - {"unused"}

    plain = find_landings(Sharded(1, torch.bfloat16), tensors)
    assert {one.name for one in plain.found} == used
    assert plain.others == set()
    by_name = {one.name: one for one in plain.found}
    assert by_name["up.weight"].rows == slice(12, 24)
    assert by_name["up.weight"].is_direct
    assert by_name["down.weight"].columns == slice(12, 24)
    assert not by_name["down.weight"].is_direct

    computing = find_landings(Computing(1, torch.bfloat16), tensors)
    assert {one.name for one in computing.found} == used - {"norm.weight"}
    assert "norm.weight" in computing.others
    later = find_landings(ComputingLater(1, torch.bfloat16), tensors)
    assert {"gate.weight", "up.weight"} <= later.others
    assert find_landings(Replacing(1, torch.bfloat16), tensors).others == set(SHAPES)


def test_a_failure_in_one_thread_is_told_after_all_have_ended(
    checkpoint: tuple[Checkpoint, Delta, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _, prepared = checkpoint
    live = LiveWeights(Sharded(0, torch.bfloat16), base, torch.device("cpu"), thread_count=3)
    write = Prepared.write

    def broken(self: Prepared, name: str, *rest: object) -> None:
        if name == "up.weight":
            raise OSError("broken on purpose")
        write(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Prepared, "write", broken)
    with pytest.raises(OSError, match="on purpose"):
        live.write(prepared)
    monkeypatch.undo()
    live.write(prepared)
    live.close()


def test_what_was_used_longest_ago_leaves_the_card_first() -> None:
    a, b, c, large = (Path(name) for name in ("a", "b", "c", "large"))
    recent = LeastRecent(10)

    assert recent.use(a, 4) == []
    assert recent.use(b, 4) == []
    assert recent.use(a, 4) == []
    assert recent.use(c, 4) == [b]
    assert recent.use(large, 11) is None
    assert recent.use(b, 10) == [a, c]
    recent.forget(b)
    assert recent.use(a, 10) == []


def test_a_card_without_a_budget_keeps_nothing() -> None:
    assert LeastRecent(0).use(Path("a"), 1) is None
