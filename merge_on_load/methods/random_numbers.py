"""Random numbers that depend on nothing but what they are for.

Philox4x32-10, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), under a key made of the seed, the tensor's name and the model's place.

Uniform numbers: element e's is word e % 4 of counter e // 4; the compiled form is
`pruning.uniform`. Bits that are set with one probability for all: see `plain_chances`; the compiled
form is `pruning.draw_evenly`.
"""

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
STRETCH = 128  # counters whose words are laid side by side in a mask that is drawn evenly
_LOW = 0xFFFFFFFF


def round_keys(seed: int, tensor: str, place: int) -> npt.NDArray[np.uint32]:
    """uint32[ROUNDS, 2], for one model's tensor."""
    digest = blake2b(f"{seed}\0{place}\0{tensor}".encode(), digest_size=8).digest()
    key = np.frombuffer(digest, "<u4").astype(np.uint64)
    steps = np.arange(ROUNDS, dtype=np.uint64)[:, None] * np.array(WEYL, np.uint64)
    return (key + steps).astype(np.uint32)


def binary_fraction(chance: float) -> tuple[int, int]:
    """(n, bits) of the shortest n / 2**bits within a 16384th of the chance, and of 1 - chance.

    A few times finer than bfloat16, in which others draw. 0 and 1 have no bits.
    """
    for bits in range(32):
        n = round(chance * 2**bits)
        if abs(n - chance * 2**bits) <= min(chance, 1 - chance) * 2 ** (bits - 14):
            return n, bits
    return max(1, round(chance * 2**32)), 32


def _words(
    keys: npt.NDArray[np.uint32], counter: "torch.Tensor", plane: int = 0
) -> "list[torch.Tensor]":
    """The four words, int64, of counters (the counter's 64 bits, plane, 0)."""
    zero = counter.new_zeros(counter.shape)
    words = [counter & _LOW, counter >> 32, zero + plane, zero]
    for first, second in keys.tolist():
        even, odd = words[0] * MULTIPLIERS[0], words[2] * MULTIPLIERS[1]
        words = [
            (odd >> 32 & _LOW) ^ words[1] ^ first,
            odd & _LOW,
            (even >> 32 & _LOW) ^ words[3] ^ second,
            even & _LOW,
        ]
    return words


def plain_uniform(keys: npt.NDArray[np.uint32], like: "torch.Tensor") -> "torch.Tensor":
    """float32, of the shape and on the device of `like`: multiples of 2**-24 in [0, 1)."""
    import torch

    count = like.numel()
    counter = torch.arange(-(-count // 4), dtype=torch.int64, device=like.device)
    numbers = torch.stack(_words(keys, counter), 1).reshape(-1)[:count]
    return ((numbers >> 8).float() * 2.0**-24).reshape(like.shape)


def plain_chances(
    keys: npt.NDArray[np.uint32], chance: float, like: "torch.Tensor"
) -> "torch.Tensor":
    """bool, of the shape and on the device of `like`: each true with the `binary_fraction` of the
    chance.

    A bit is set when a random binary fraction is below the chance, which takes as many random bits
    as the chance has: OR where a bit of the chance is 1, AND where it is 0, the lowest first. Bit
    p of the chance takes counters of plane p. A counter's first words, of STRETCH counters, come
    before their second words; elements in a mask: see `pruning`.
    """
    import torch

    n, bits = binary_fraction(chance)
    count = like.numel()
    if not bits:
        return torch.full(like.shape, bool(n), device=like.device)
    stretches = -(-count // (STRETCH * 4 * 32))
    counter = torch.arange(stretches * STRETCH, dtype=torch.int64, device=like.device)
    drawn = counter.new_zeros(4, stretches, STRETCH)
    for p in range(bits):
        words = torch.stack(_words(keys, counter, p)).reshape(drawn.shape)
        drawn = drawn | words if n >> p & 1 else drawn & words
    # [groups, 8 words] -> bytes [groups, 32] -> elements [groups, 8 bits, 32]
    words = drawn.transpose(0, 1).reshape(-1, 8)
    places = torch.arange(0, 32, 8, device=like.device)
    in_bytes = (words[:, :, None] >> places & 0xFF).reshape(-1, 1, 32)
    of_bits = torch.arange(8, device=like.device)[:, None]
    return (in_bytes >> of_bits & 1).bool().reshape(-1)[:count].reshape(like.shape)
