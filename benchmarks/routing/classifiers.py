"""The simple baselines: labelled prompts → scores of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.routing.answers import Answers
from benchmarks.routing.calibration import Calibration, calibrate
from benchmarks.routing.data_sets import Prompts
from benchmarks.routing.splits import folds
from gateway.routing.task_router import FullEncoder

Floats = NDArray[np.float64]
_STRENGTH = 10.0  # scikit-learn's C, as in our own fitting
_NEIGHBOURS = 10
_INNER_FOLDS = 3


class Scorer(Protocol):
    """Has learned; the greater a label's score, the likelier it is."""

    def scores(self, texts: Sequence[str]) -> Floats:
        """float64[n, labels], labels in alphabetical order."""
        ...


Learn = Callable[[Prompts, FullEncoder], Scorer]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A scorer with its calibration."""

    scorer: Scorer
    calibration: Calibration

    def answers(self, texts: Sequence[str]) -> Answers:
        """To each text."""
        return self.calibration.answers(self.scorer.scores(texts))

    def decide(self, text: str) -> Answers:
        """To one."""
        return self.answers([text])


def learn(kind: Learn, prompts: Prompts, embedding: FullEncoder) -> Baseline:
    """From all prompts, calibrated on inner folds of them."""
    labels = tuple(sorted(set(prompts.tasks)))
    held_out = np.empty((len(prompts), len(labels)))
    for split in folds(prompts.tasks, _INNER_FOLDS):
        scorer = kind(prompts.at(split.learned), embedding)
        held_out[split.tested] = scorer.scores(prompts.at(split.tested).texts)
    return Baseline(kind(prompts, embedding), calibrate(labels, held_out, prompts.tasks))


class Centroids:
    """Cosine to the mean embedding of each label's prompts."""

    def __init__(self, prompts: Prompts, embedding: FullEncoder) -> None:
        self._embedding = embedding
        rows = embedding.encode(list(prompts.texts))
        kinds = np.array(prompts.tasks)
        means = np.stack([rows[kinds == one].mean(0) for one in sorted(set(prompts.tasks))])
        self._centroids = means / np.linalg.norm(means, axis=1, keepdims=True)

    def scores(self, texts: Sequence[str]) -> Floats:
        """See Scorer."""
        return np.asarray(self._embedding.encode(list(texts)) @ self._centroids.T, float)


class Neighbours:
    """The sum of the cosines of those among the ten nearest prompts that have the label."""

    def __init__(self, prompts: Prompts, embedding: FullEncoder) -> None:
        self._embedding = embedding
        self._rows = embedding.encode(list(prompts.texts))
        labels = sorted(set(prompts.tasks))
        self._marks = np.zeros((len(prompts), len(labels)))
        self._marks[np.arange(len(prompts)), [labels.index(one) for one in prompts.tasks]] = 1

    def scores(self, texts: Sequence[str]) -> Floats:
        """See Scorer."""
        cosines = self._embedding.encode(list(texts)) @ self._rows.T
        count = min(_NEIGHBOURS, cosines.shape[1])
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        weights = np.take_along_axis(cosines, nearest, 1)
        return np.asarray((self._marks[nearest] * weights[:, :, None]).sum(1))


class Regression:
    """scikit-learn's logistic regression over the embedding, every label weighted alike."""

    def __init__(self, prompts: Prompts, embedding: FullEncoder) -> None:
        self._embedding = embedding
        model = _regression().fit(embedding.encode(list(prompts.texts)), prompts.tasks)
        self._weights, self._bias = model.coef_.T, model.intercept_

    def scores(self, texts: Sequence[str]) -> Floats:
        """See Scorer."""
        return np.asarray(self._embedding.encode(list(texts)) @ self._weights + self._bias)


class Words:
    """The same over TF-IDF of words and pairs of words. Needs no encoder."""

    def __init__(self, prompts: Prompts, embedding: FullEncoder) -> None:
        self._terms = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        counted = self._terms.fit_transform(prompts.texts)
        self._model = _regression(tol=1e-3).fit(counted, prompts.tasks)

    def scores(self, texts: Sequence[str]) -> Floats:
        """See Scorer."""
        return np.asarray(self._model.decision_function(self._terms.transform(texts)))


BASELINES: dict[str, Learn] = {
    "nearest centroid": Centroids,
    "10 nearest neighbours": Neighbours,
    "logistic regression": Regression,
    "TF-IDF, logistic regression": Words,
}


def _regression(**settings: Any) -> Any:
    return LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=300, **settings)
