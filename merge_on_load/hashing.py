"""Digests of weights and files, in bounded memory.

Whatever may be large is hashed by BLAKE3 (decision 0034); documents, and what is made of digests,
by SHA-256 where they are.
"""

from pathlib import Path

from blake3 import blake3

from merge_on_load.specs import Bytes

_PIECE_BYTES = 1 << 20


def digest_of(raw: Bytes) -> str:
    """BLAKE3 of bytes, uint8[size_bytes], hex."""
    return blake3(raw.data).hexdigest()


def file_digest(path: Path) -> str:
    """BLAKE3 of a file, hex; reads 1 MiB at a time."""
    digest = blake3()
    piece = bytearray(_PIECE_BYTES)
    view = memoryview(piece)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(view[:count])
    return digest.hexdigest()
