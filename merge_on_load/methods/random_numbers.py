"""Random numbers that depend on nothing but what they are for.

Philox4x32-10, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"): element e's number is word e % 4 of counter e // 4, under a key made of the seed, the
tensor's name and the model's place. The compiled form is `pruning.uniform`.
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


def round_keys(seed: int, tensor: str, place: int) -> npt.NDArray[np.uint32]:
    """uint32[ROUNDS, 2], for one model's tensor."""
    digest = blake2b(f"{seed}\0{place}\0{tensor}".encode(), digest_size=8).digest()
    key = np.frombuffer(digest, "<u4").astype(np.uint64)
    steps = np.arange(ROUNDS, dtype=np.uint64)[:, None] * np.array(WEYL, np.uint64)
    return (key + steps).astype(np.uint32)


def plain_uniform(keys: npt.NDArray[np.uint32], like: "torch.Tensor") -> "torch.Tensor":
    """float32, of the shape and on the device of `like`: multiples of 2**-24 in [0, 1)."""
    import torch

    count = like.numel()
    counter = torch.arange(-(-count // 4), dtype=torch.int64, device=like.device)
    low = 0xFFFFFFFF
    words = [counter & low, counter >> 32, torch.zeros_like(counter), torch.zeros_like(counter)]
    for first, second in keys.tolist():
        even, odd = words[0] * MULTIPLIERS[0], words[2] * MULTIPLIERS[1]
        words = [
            (odd >> 32 & low) ^ words[1] ^ first,
            odd & low,
            (even >> 32 & low) ^ words[3] ^ second,
            even & low,
        ]
    numbers = torch.stack(words, 1).reshape(-1)[:count]
    return ((numbers >> 8).float() * 2.0**-24).reshape(like.shape)
