"""Every prompt is measured by a router that has not seen it, and none is measured twice."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.routing.splits import Split, folds, grouped_folds, sources_left_out

LABELS = st.lists(st.sampled_from("abc"), min_size=1, max_size=60)
PAIRS = st.lists(
    st.tuples(st.sampled_from(["sql", "math", "legal"]), st.sampled_from("pqrstuvw")),
    min_size=1,
    max_size=80,
)


@given(LABELS, st.integers(2, 5))
def test_folds_test_each_prompt_once_and_never_one_that_was_learned(labels, count):
    _check_apart(folds(labels, count), len(labels))
    tested = _tested(folds(labels, count))
    assert tested == Counter(range(len(labels)))


@given(LABELS)
def test_folds_spread_every_label(labels):
    kinds = np.array(labels)
    for label in set(labels):
        counts = [int((kinds[one.tested] == label).sum()) for one in folds(labels, 3)]
        assert max(counts) - min(counts) <= 1


@given(st.lists(st.sampled_from(["How tall?", "HOW TALL?", "how wide?", "why"]), min_size=1))
def test_prompts_that_are_alike_are_tested_together(prompts):
    splits = grouped_folds(prompts, 3)

    _check_apart(splits, len(prompts))
    assert _tested(splits) == Counter(range(len(prompts)))
    for split in splits:
        tested = {prompts[i].lower() for i in split.tested}
        assert tested.isdisjoint(prompts[i].lower() for i in split.learned)


@given(PAIRS)
def test_a_source_is_never_on_both_sides(pairs):
    tasks, sources = zip(*pairs, strict=True)
    splits = sources_left_out(tasks, sources, 3)

    _check_apart(splits, len(pairs))
    for split in splits:
        assert {pairs[i] for i in split.tested}.isdisjoint(pairs[i] for i in split.learned)


@given(PAIRS)
def test_each_source_of_a_task_with_several_is_tested_once(pairs):
    tasks, sources = zip(*pairs, strict=True)
    tested = _tested(sources_left_out(tasks, sources, 3))

    several = {t for t in set(tasks) if len({s for task, s in pairs if task == t}) > 1}
    assert tested == Counter(i for i, task in enumerate(tasks) if task in several)


@given(PAIRS)
def test_a_task_that_is_tested_has_been_learned(pairs):
    tasks, sources = zip(*pairs, strict=True)
    for split in sources_left_out(tasks, sources, 3):
        assert {tasks[i] for i in split.tested} <= {tasks[i] for i in split.learned}


def _check_apart(splits: list[Split], count: int) -> None:
    for split in splits:
        both = Counter([*split.learned.tolist(), *split.tested.tolist()])
        assert both == Counter(range(count))


def _tested(splits: list[Split]) -> Counter[int]:
    return Counter(place for split in splits for place in split.tested.tolist())
