"""A few weights of each row, or thin products: sparse, topk and lowrank."""

import math

import numpy as np
import pytest
import torch

from merge_on_load.codecs import CodecSettings, frames, make_codec
from merge_on_load.errors import CorruptPayload
from merge_on_load.tensors import spec_of
from support.codec_runs import round_trip, small_floats


def test_sparse_keeps_one_of_each_block_scaled_up():
    base, tuned = torch.zeros(50, 203), torch.full((50, 203), 0.5)

    rebuilt = round_trip("sparse", base, tuned, keep=10, bits=1)

    for begin in range(0, 203, 10):
        assert (rebuilt[:, begin : begin + 10] != 0).sum(dim=1).eq(1).all()
    assert torch.allclose(rebuilt[rebuilt != 0], torch.tensor(5.0))
    places = (rebuilt[:, :200].reshape(50, 20, 10) != 0).sum(dim=(0, 1))
    assert places.min() > 60  # of 100: every column of a block has its turn


def test_sparse_takes_other_places_for_another_seed():
    base, tuned = torch.zeros(50, 200), torch.ones(50, 200)

    first, second = (round_trip("sparse", base, tuned, seed=seed) for seed in (0, 1))

    assert ((first != 0) & (second != 0)).sum() < 0.2 * (first != 0).sum()


def test_topk_keeps_the_largest_of_each_row():
    base, tuned = torch.zeros(30, 1000), small_floats((30, 1000), "F32", 0)

    rebuilt = round_trip("topk", base, tuned, keep=20, bits=4)

    kept = rebuilt != 0
    assert kept.sum(dim=1).eq(50).all()
    smallest = torch.where(kept, tuned.abs(), math.inf).amin(dim=1)
    largest_left = torch.where(kept, 0, tuned.abs()).amax(dim=1)
    assert bool((smallest >= largest_left).all())
    assert ((rebuilt - tuned)[kept].norm() / tuned[kept].norm()) < 0.12


@pytest.mark.parametrize("places", [[0, 999], [254, 510], [255, 511], [600], [], list(range(1000))])
def test_far_places_are_found_again(places):
    tuned = torch.zeros(2, 1000)
    tuned[:, places] = 1.0
    keep = max(1, 1000 // max(1, len(places)))

    rebuilt = round_trip("topk", torch.zeros(2, 1000), tuned, keep=keep, bits=1)

    assert torch.equal(rebuilt[:, places], tuned[:, places])


def test_altered_places_are_refused():
    made = make_codec("topk", CodecSettings(keep=10))
    base, tuned = small_floats((40, 300), "F32", 0), small_floats((40, 300), "F32", 1)
    payload = dict(made.encode("w", base, tuned))
    payload |= frames.join([frames.compress(np.full(40 * 30, 20, np.uint8), 1)])

    with pytest.raises(CorruptPayload, match="do not fit their rows"):
        made.decode(base, payload, spec_of(tuned))
    payload |= frames.join([frames.compress(np.zeros(7, np.uint8), 1)])
    with pytest.raises(CorruptPayload, match="do not fit their rows"):
        made.decode(base, payload, spec_of(tuned))


def test_lowrank_finds_what_is_of_low_rank():
    random = torch.Generator().manual_seed(0)
    base = torch.zeros(300, 200)
    tuned = torch.randn(300, 4, generator=random) @ torch.randn(4, 200, generator=random)

    error = (round_trip("lowrank", base, tuned, rank16=4) - tuned).norm() / tuned.norm()

    assert error < 0.01


@pytest.mark.parametrize("shape", [(300, 200), (20, 30), (1, 7), (7, 1)])
def test_lowrank_is_the_nearest_of_its_rank(shape):
    """Eckart and Young: what is left are the singular values beyond."""
    tuned = small_floats(shape, "F32", 0)
    beyond = torch.linalg.svdvals(tuned)[16:].norm()

    error = (round_trip("lowrank", torch.zeros(shape), tuned, rank16=16) - tuned).norm()

    assert error <= 1.1 * beyond + 0.01 * tuned.norm()


def test_bits_of_lowrank_go_to_the_first_vectors():
    random = torch.Generator().manual_seed(0)
    sizes = 2.0 ** -torch.arange(40.0)
    tuned = torch.randn(256, 40, generator=random) * sizes @ torch.randn(40, 256, generator=random)
    base = torch.zeros(256, 256)

    mixed = round_trip("lowrank", base, tuned, rank8=4, rank2=8, group_size=256)
    even = round_trip("lowrank", base, tuned, rank2=24, group_size=256)

    assert (mixed - tuned).norm() < 0.5 * (even - tuned).norm()


def test_a_sign_beside_a_product_is_nearer():
    base, tuned = small_floats((128, 256), "BF16", 0), small_floats((128, 256), "F32", 1)

    alone = round_trip("lowrank", base, tuned, rank16=8)
    beside = round_trip("lowrank", base, tuned, rank16=8, residual=1)

    assert (beside - tuned).norm() < 0.65 * (alone - tuned).norm()
