"""Base + payload -> weights in one pass over the memory, compiled by numba; see `lines`.

Importing this imports numba, which takes part of a second: only what decodes does so.
"""

from merge_on_load.kernels.adding import (
    add_scaled,
    add_signs,
    add_signs_by_column,
    copy_bytes,
    warm_up,
)
from merge_on_load.kernels.ans import (
    SLOTS,
    count_symbols,
    decode_differences,
    decoding_table,
    encode_differences,
    encoding_table,
    most_bytes,
)
from merge_on_load.kernels.lines import compiled, load, store
from merge_on_load.kernels.lowrank import add_product
from merge_on_load.kernels.sparse import add_marked, add_sparse, mark_gaps, places
from merge_on_load.kernels.steps import add_steps

__all__ = [
    "SLOTS",
    "add_marked",
    "add_product",
    "add_scaled",
    "add_signs",
    "add_signs_by_column",
    "add_sparse",
    "add_steps",
    "compiled",
    "copy_bytes",
    "count_symbols",
    "decode_differences",
    "decoding_table",
    "encode_differences",
    "encoding_table",
    "load",
    "mark_gaps",
    "most_bytes",
    "places",
    "store",
    "warm_up",
]
