"""Bit-exact deltas, from cold to ready, and memory: the tables of CODECS.md."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.deltas.cold_start import SMALL_PAGES, times_of_base
from benchmarks.figures import Goal, table

_LEAST_TIMES, _LEAST_TIMES_OF_LITTLE, _FROM_BEST = 1.6, 2.5, 1.05
_LITTLE = 0.25  # of the weights are as they were: the fine-tune moved little
_OURS = "ours"
_PEERS = ("FM-Delta", "ZipNN")
_LEAST_RATE, _LONGEST_COLD = 2e9, 1.3

Figures = dict[str, Any]


def render_lossless(found: Figures) -> tuple[str, list[Goal]]:
    """found: "pairs", lossless.measure's, and "decoding", lossless.measure_decoding's."""
    pairs = found["pairs"]
    methods = list(pairs[0]["bytes"])
    rows = [("weights that did not change", *(f"{one['unchanged']:.0%}" for one in pairs))]
    for method in methods:
        rows.append((method, *(f"{_times(one, method):.2f}" for one in pairs)))
    text = table(("times smaller", *(one["name"] for one in pairs)), rows)
    goals = []
    for one in pairs:
        wanted = _LEAST_TIMES_OF_LITTLE if one["unchanged"] > _LITTLE else _LEAST_TIMES
        times = _times(one, _OURS)
        goals.append(Goal(f"bit-exact, {one['name']}: {wanted}x", f"{times:.2f}x", times >= wanted))
        peers = [method for method in methods if method.startswith(_PEERS)]
        best = max(_times(one, method) for method in peers)
        what = f"bit-exact, {one['name']}: within 5% of the best of {', '.join(peers)}"
        goals.append(Goal(what, f"{times / best:.2f} of it", times * _FROM_BEST >= best))
    text += "\n\n" + _decoding(found["decoding"], goals)
    return text, goals


def _times(one: Figures, method: str) -> float:
    return float(one["weight_bytes"] / one["bytes"][method])


def _decoding(found: Figures, goals: list[Goal]) -> str:
    rates = {
        name: found["weight_bytes"] / statistics.median(seconds)
        for name, seconds in found["seconds"].items()
    }
    told = f"{rates[_OURS] / 1e9:.2f} GB/s; zstd's planes alone {rates['zstd'] / 1e9:.2f}"
    is_reached = rates[_OURS] >= min(_LEAST_RATE, rates["zstd"])
    goals.append(Goal("bit-exact, decoded: 2 GB/s, or what zstd alone gives", told, is_reached))
    rows = [(name, f"{rate / 1e9:.2f}") for name, rate in rates.items()]
    return table(("decoding one matrix of a 7B model", "GB/s"), rows)


def render_cold(found: Figures) -> tuple[str, list[Goal]]:
    """found: cold_start.measure's."""
    seconds, rows, goals = found["seconds"], [], []
    for name, taken in seconds.items():
        times = times_of_base(seconds, name)
        beside_small = times_of_base(seconds, name, SMALL_PAGES)
        told = (f"{statistics.median(taken):.3f}", f"{times:.2f}", f"{beside_small:.2f}")
        rows.append((name, *told))
        if name in found["delta_bytes"]:
            what = f"cold start, {name}: at most 1.3 times reading the base"
            goals.append(Goal(what, f"{times:.2f} times", times <= _LONGEST_COLD))
    text = f"The base has {found['base_bytes'] / 1e6:.0f} MB.\n\n"
    heads = ("what", "s", "beside the base alone", "beside it in small pages")
    return text + table(heads, rows), goals


def render_memory(found: Figures) -> tuple[str, list[Goal]]:
    """found: memory.measure's."""
    limit, rows, most = found["limit_bytes"], [], 0
    for name, one in found["packed"].items():
        most = max(most, one["anonymous_bytes"])
        size = f"{one['anonymous_bytes'] / 2**20:.0f}"
        rows.append((f"`{name}`", size, f"{one['seconds']:.0f}"))
    text = table(("packing", "anonymous memory, MiB", "s"), rows)
    goal = Goal("packing a 7B: at most 2 GiB", f"{most / 2**30:.2f} GiB at most", most <= limit)
    return text, [goal]
