"""DARE and DELLA: how many stay, what they become, what the numbers depend on."""

import numpy as np
import pytest
import torch

from merge_on_load.methods.random_numbers import (
    ROUNDS,
    binary_fraction,
    plain_chances,
    plain_uniform,
    round_keys,
)
from support.method_runs import Run

SIZE = (200, 1000)


def changes(method: str, seed: int = 0, tensor: str = "w", **values: float | bool) -> torch.Tensor:
    """What the method leaves of differences of 1 + a little, with a base of zeros."""
    model = 1 + torch.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * 2.0**-20
    overall = {"rescale": bool(values.pop("rescale", True)), "normalize": False}
    own = {"weight": 1.0, **values}
    return Run(
        method, torch.zeros(SIZE), [model], [own], overall, seed=seed, tensor=tensor
    ).merged()


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.9])
def test_dare_keeps_the_density_part_and_the_mean(method: str, density: float) -> None:
    kept = changes(method, density=density)

    assert float((kept != 0).float().mean()) == pytest.approx(density, abs=0.005)
    assert float(kept.mean()) == pytest.approx(1.09, abs=0.02)


def test_dare_without_rescale_leaves_what_stays_as_it_is() -> None:
    kept = changes("dare_linear", density=0.3, rescale=False)

    assert float(kept[kept != 0].mean()) == pytest.approx(1.09, abs=0.02)


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_keeps_the_large_more_often(method: str) -> None:
    kept = changes(method, density=0.5, epsilon=0.3) != 0

    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.005)
    assert float(kept[:, :100].float().mean()) == pytest.approx(0.23, abs=0.02)
    assert float(kept[:, -100:].float().mean()) == pytest.approx(0.77, abs=0.02)


@pytest.mark.parametrize("method", ["dare_linear", "della"])
def test_the_numbers_depend_on_seed_tensor_and_place_only(method: str) -> None:
    values = {"density": 0.5, "epsilon": 0.2}
    first = changes(method, **values)

    assert torch.equal(first, changes(method, **values))
    for other in (changes(method, seed=1, **values), changes(method, tensor="v", **values)):
        assert float(((first != 0) == (other != 0)).float().mean()) < 0.6
    one = torch.ones(SIZE)
    both = Run(method, torch.zeros(SIZE), [one, one], [{"weight": 1.0, **values}] * 2).merged()
    assert len(both.unique()) > 2


def test_philox_gives_the_published_numbers() -> None:
    """Salmon et al.'s known answer: counter and key of zeros."""
    keys = np.arange(ROUNDS, dtype=np.uint64)[:, None] * np.array(
        [0x9E3779B9, 0xBB67AE85], np.uint64
    )

    numbers = plain_uniform(keys.astype(np.uint32), torch.empty(4))

    expected = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]) >> 8
    assert (numbers * 2**24).to(torch.int64).tolist() == expected.tolist()


def test_the_compiled_numbers_are_the_plain_ones() -> None:
    from merge_on_load.methods import pruning

    keys = round_keys(7, "model.norm.weight", 2)
    expected = plain_uniform(keys, torch.empty(5000)).numpy()

    for begin, count in [(0, 5000), (1, 1), (1, 4), (2, 3), (3, 2000), (4094, 906)]:
        numbers = np.zeros(5008, np.float32)
        offset = pruning.uniform(keys, begin, count, np.zeros((4, 1300), np.uint32), numbers)
        assert (numbers[offset : offset + count] == expected[begin : begin + count]).all()


@pytest.mark.parametrize("chance", [0.5, 0.6, 0.125, 0.9, 1e-3, 1 - 1e-3, 0.0, 1.0])
def test_a_chance_is_a_short_binary_fraction_near_to_it(chance: float) -> None:
    n, bits = binary_fraction(chance)

    assert abs(n / 2**bits - chance) <= min(chance, 1 - chance) / 16384
    assert n % 2 == 1 or bits == 0


def test_the_least_chances_are_not_none() -> None:
    n, bits = binary_fraction(1e-12)

    assert (n, bits) == (1, 32)


@pytest.mark.parametrize("chance", [0.5, 0.6, 0.3, 0.999])
@pytest.mark.parametrize("count", [1, 31, 300, 16384, 40000])
def test_the_compiled_bits_are_the_plain_ones(chance: float, count: int) -> None:
    from merge_on_load.methods import pruning

    keys = round_keys(7, "model.norm.weight", 2)
    mask = np.zeros(-(-count // 256) * 32, np.uint8)
    pruning.draw_evenly(keys, *binary_fraction(chance), mask)
    compiled = np.ones(count, np.float32)
    pruning.apply(mask, 0, np.float32(1), compiled)

    plain = plain_chances(keys, chance, torch.empty(count))

    assert (compiled != 0).tolist() == plain.tolist()


@pytest.mark.parametrize("chance", [0.5, 0.6, 0.05, 0.97])
def test_bits_have_their_chance_and_are_independent(chance: float) -> None:
    """Within five standard deviations, of all and of neighbours in each direction."""
    count = 1 << 19
    drawn = plain_chances(round_keys(1, "w", 0), chance, torch.empty(count)).double()
    other = plain_chances(round_keys(1, "w", 1), chance, torch.empty(count)).double()

    off = drawn - chance
    deviation = (chance * (1 - chance) / count) ** 0.5
    assert abs(off.mean()) < 5 * deviation
    for apart in (1, 32, 256, 4096, 16384):
        product = (off[:-apart] * off[apart:]).mean()
        assert abs(product) < 5 * chance * (1 - chance) / count**0.5
    assert abs((off * (other - chance)).mean()) < 5 * chance * (1 - chance) / count**0.5
