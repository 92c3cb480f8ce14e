"""What can learn stands for the same numbers as the payload that it gives in the end."""

import pytest
import torch

from merge_on_load.calibration.stepped import Stepped
from merge_on_load.calibration.thawed import thaw
from merge_on_load.codecs import Coding, make_codec, steps
from merge_on_load.specs import TensorSpec

CODINGS = [
    "int2",
    "int3:group_size=32",
    "int4",
    "onebit",
    "onebit:scales=1",
    "onebit:scales=2",
    "topk:keep=9,bits=1",
    "topk:keep=4,bits=3,group_size=32",
    "sparse:keep=7,bits=3",
    "sparse:keep=1,bits=1",
    "lowrank",
    "lowrank:rank8=1,rank3=4,rank2=3,group_size=32",
    "lowrank:rank4=5,residual=1",
]


def difference(rows: int = 40, width: int = 70) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * 0.01


@pytest.mark.parametrize("text", CODINGS)
@pytest.mark.parametrize("turns", [0, 3])
def test_what_is_learned_is_what_is_decoded(text, turns):
    coding, change = Coding.parse(text), difference()
    thawed = thaw(coding, change)
    optimizer = torch.optim.SGD(thawed.parameters(), lr=0.01)
    for _ in range(turns):
        (thawed() - change.roll(1)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    codec = make_codec(coding.codec, coding.settings)
    base, spec = torch.zeros(change.shape), TensorSpec("F32", tuple(change.shape))
    decoded = codec.decode(base, thawed.payload(), spec)

    learned = thawed().detach()
    if coding.codec == "lowrank":  # its factors are rounded to whole numbers to be multiplied
        assert (decoded - learned).norm() < 0.01 * learned.norm()
    else:
        assert torch.allclose(decoded, learned, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("text", CODINGS)
def test_learning_comes_nearer_to_what_it_learns_from(text):
    """As near as least squares comes by itself, learning the same difference changes little; here
    another one, half as large, is learned."""
    thawed, wanted = thaw(Coding.parse(text), difference()), difference() / 2
    before = (thawed() - wanted).square().sum().item()
    optimizer = torch.optim.Adam(thawed.parameters(), lr=1e-4)
    for _ in range(60):
        (thawed() - wanted).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    assert (thawed() - wanted).square().sum().item() < before


@pytest.mark.parametrize("text", ["int8", "lossless"])
def test_codecs_with_nothing_to_learn(text):
    assert thaw(Coding.parse(text), difference()) is None


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_stepped_values_are_those_of_the_steps(bits):
    values = difference()
    stepped = Stepped(values, 32, bits)

    packed, scale = stepped.packed()

    codes = steps.unpack(packed.numpy(), 70, bits)
    expected = steps.dequantise_rows(codes, scale.float().numpy(), 32, bits)
    assert torch.allclose(stepped().detach(), torch.from_numpy(expected), rtol=1e-6)


def test_a_gradient_passes_where_a_value_is_within_the_steps():
    stepped = Stepped(torch.tensor([[0.1, -0.2, 0.3, 0.2]]), 32, 2)
    with torch.no_grad():
        stepped.latent[0, 2] = 100.0

    stepped().sum().backward()

    assert stepped.latent.grad.tolist() == [[1, 1, 0, 1]]
