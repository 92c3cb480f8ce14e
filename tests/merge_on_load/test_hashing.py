"""Digests of bytes and files."""

import numpy as np
import pytest

from merge_on_load.hashing import digest_of, file_digest

# Of the authors' test vectors (BLAKE3-team/BLAKE3, test_vectors.json): bytes 0, 1, ... 250, 0, ...
KNOWN = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
}


@pytest.mark.parametrize(("size", "expected"), KNOWN.items())
def test_digests_are_blake3(tmp_path, size, expected):
    raw = (np.arange(size) % 251).astype(np.uint8)
    (tmp_path / "file").write_bytes(raw.tobytes())

    assert digest_of(raw) == file_digest(tmp_path / "file") == expected


def test_a_file_of_many_pieces_has_the_digest_of_its_bytes(tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (3 << 20) + 5, np.uint8)
    (tmp_path / "file").write_bytes(raw.tobytes())

    assert file_digest(tmp_path / "file") == digest_of(raw)
