"""Words by their 64-bit hashes: tables, TF-IDF weights and the static step. Compiled by numba.

A table is two arrays, keys uint64 and places int32, a power of two of them: open addressing, the
key 0 where nothing is. Two words with one hash are one word; of a million words a pair in ten
million tables has one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_on_load.kernels import compiled

Hashes = NDArray[np.uint64]
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 by the golden ratio, odd: Fibonacci hashing
_HALF = np.uint64(32)
_LEAST = 1024


def _find(keys: Any, places: Any, key: Any) -> Any:
    mask = np.uint64(len(keys) - 1)
    slot = ((key * _SPREAD) >> _HALF) & mask
    while True:
        if keys[slot] == key:
            return places[slot]
        if keys[slot] == 0:
            return np.int32(-1)
        slot = (slot + np.uint64(1)) & mask


def _put(keys: Any, places: Any, new: Any, first: Any) -> Any:
    """New keys get the places from first on; one that is there keeps its own. Returns the next."""
    mask = np.uint64(len(keys) - 1)
    for key in new:
        slot = ((key * _SPREAD) >> _HALF) & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            keys[slot] = key
            places[slot] = first
            first += 1
    return first


def _pair(left: Any, right: Any) -> Any:
    mixed = (left ^ (left >> _HALF)) * _SPREAD + right
    return (mixed ^ (mixed >> _HALF)) | np.uint64(1)


def _weigh(hashes: Any, keys: Any, table: Any, idf: Any, places: Any, weights: Any) -> Any:
    """Terms that a table has, in order, and their weights, of Euclidean length 1.

    hashes: uint64, of words in a row. idf: float32, by place. places: int32, and weights: float32,
    room for two for each word. Returns how many there are.
    """
    count = 0
    for i in range(len(hashes)):
        place = find(keys, table, hashes[i])
        if place >= 0:
            places[count] = place
            count += 1
        if i:
            place = find(keys, table, pair(hashes[i - 1], hashes[i]))
            if place >= 0:
                places[count] = place
                count += 1
    places[:count].sort()
    found = 0
    squares = np.float32(0)
    i = 0
    while i < count:
        place, times = places[i], 0
        while i < count and places[i] == place:
            times += 1
            i += 1
        weight = idf[place]
        if times > 1:
            weight *= np.float32(1 + np.log(times))
        places[found], weights[found] = place, weight
        squares += weight * weight
        found += 1
    if found:
        scale = np.float32(1) / np.sqrt(squares)
        for i in range(found):
            weights[i] *= scale
    return found


def _locate(hashes: Any, keys: Any, table: Any, out: Any) -> Any:
    """out: int32, as many: places, -1 where unknown. Returns how many are unknown."""
    unknown = 0
    for i in range(len(hashes)):
        out[i] = find(keys, table, hashes[i])
        unknown += out[i] < 0
    return unknown


def _add_embedding(words: Any, sums: Any, dense: Any, row: Any, logits: Any) -> None:
    """Adds dense @ the words' mean, of Euclidean length 1. words: int32. sums: float32[words, dim].
    dense: float32[tasks, dim]. row: float32[dim], zeros. logits: float32[tasks].
    """
    for word in words:
        for j in range(len(row)):
            row[j] += sums[word, j]
    squares = np.float32(0)
    for j in range(len(row)):
        squares += row[j] * row[j]
    if squares > 0:
        scale = np.float32(1) / np.sqrt(squares)
        for i in range(len(logits)):
            found = np.float32(0)
            for j in range(len(row)):
                found += dense[i, j] * row[j]
            logits[i] += found * scale


def _add_terms(places: Any, weights: Any, terms: Any, logits: Any) -> None:
    """places: int32. weights: float32. terms: float32[terms, tasks]. logits: float32[tasks]."""
    for i in range(len(places)):
        for j in range(len(logits)):
            logits[j] += weights[i] * terms[places[i], j]


find = compiled(_find)
pair = compiled(_pair)
put = compiled(_put)
weigh = compiled(_weigh)
locate = compiled(_locate)
add_embedding = compiled(_add_embedding)
add_terms = compiled(_add_terms)


def _vote(
    hashes: Any,
    keys: Any,
    table: Any,
    sums: Any,
    dense: Any,
    places: Any,
    weights: Any,
    terms: Any,
    logits: Any,
) -> Any:
    """The static step's logits, but for bias and shape: added to. keys, table: the places in sums.
    Returns how many words the table does not have; where it is not 0, logits stay as they are.
    """
    words = np.empty(len(hashes), np.int32)
    unknown = locate(hashes, keys, table, words)
    if not unknown:
        row = np.zeros(dense.shape[1], np.float32)
        add_embedding(words, sums, dense, row, logits)
        add_terms(places, weights, terms, logits)
    return unknown


def _score_languages(
    hashes: Any, most: Any, keys: Any, table: Any, english: Any, telling: Any, scores: Any
) -> Any:
    """How much a text's first words tell each language, and English first of all.

    most: words that are read. english: float32[words]. telling: float32[words, languages]. scores:
    float32[1 + languages], added to. Returns how many words were read; signs are none.
    """
    count = 0
    for hashed in hashes:
        if not hashed & np.uint64(1):
            continue
        if count == most:
            break
        count += 1
        place = find(keys, table, hashed)
        if place >= 0:
            scores[0] += english[place]
            for j in range(telling.shape[1]):
                scores[1 + j] += telling[place, j]
    return count


def _choose(logits: Any, beyond: Any, threshold: Any, probabilities: Any) -> Any:
    """logits: float32[tasks], two or more. beyond: the place of `out_of_scope`. probabilities:
    float32[tasks], filled. Returns places: of the choice, and of the runner-up.
    """
    greatest = logits[0]
    for logit in logits:
        greatest = max(greatest, logit)
    total = np.float32(0)
    for i in range(len(logits)):
        probabilities[i] = np.exp(logits[i] - greatest)
        total += probabilities[i]
    best, second = -1, -1  # of the tasks
    for i in range(len(logits)):
        probabilities[i] /= total
        if i == beyond:
            continue
        if best < 0 or probabilities[i] > probabilities[best]:
            best, second = i, best
        elif second < 0 or probabilities[i] > probabilities[second]:
            second = i
    if probabilities[beyond] >= threshold:
        return beyond, best
    if second < 0 or probabilities[beyond] > probabilities[second]:
        second = beyond
    return best, second


def _pairs(left: Any, right: Any, out: Any) -> None:
    for i in range(len(left)):
        out[i] = pair(left[i], right[i])


vote = compiled(_vote)
score_languages = compiled(_score_languages)
choose = compiled(_choose)
fill_pairs = compiled(_pairs)


def pairs(left: Hashes, right: Hashes) -> Hashes:
    """The hashes of pairs of words."""
    out = np.empty(len(left), np.uint64)
    fill_pairs(left, right, out)
    return out


class Table:
    """Hashes → places, in the order in which they were added."""

    def __init__(self) -> None:
        """Empty."""
        self.keys: Hashes = np.zeros(_LEAST, np.uint64)
        self.places: NDArray[np.int32] = np.zeros(_LEAST, np.int32)
        self.count = 0

    def add(self, hashes: Hashes) -> int:
        """Returns how many are there then. Those that already are keep their places."""
        while 4 * (self.count + len(hashes)) > len(self.keys):
            self._grow()
        self.count = int(put(self.keys, self.places, hashes, np.int32(self.count)))
        return self.count

    def _grow(self) -> None:
        is_held = self.keys != 0
        held = np.empty(self.count, np.uint64)
        held[self.places[is_held]] = self.keys[is_held]
        size = 2 * len(self.keys)
        self.keys, self.places = np.zeros(size, np.uint64), np.zeros(size, np.int32)
        put(self.keys, self.places, held, np.int32(0))
