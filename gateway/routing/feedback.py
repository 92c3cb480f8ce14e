"""What callers said of answers, and how it moves the quality that is expected of others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_pool.errors import InvalidParameter, UnknownRequest

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

# How many scores of the very same prompt an estimate counts as much as. Less trusts callers sooner.
ESTIMATE_WEIGHT = 4.0
# Between prompts of one task of which one has no embedding: about what two such have on average.
SAME_TASK_WEIGHT = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """An answer that may be scored.

    task: of its prompt; empty: out of scope, or nobody asked. row: float16[dim], the prompt's unit
    embedding, where one was made. caller: whose it is; empty: nobody's who was known.
    """

    model: str
    task: str
    row: Halves | None
    caller: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """What a caller said of an answer. score: 0 to 1."""

    request_id: str
    answered: Answered
    score: float


class RecentAnswers:
    """The last answers, by request id; the oldest leave first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._answers: OrderedDict[str, Answered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def remember(self, request_id: str, answered: Answered) -> None:
        """The newest now, even where the id is not new."""
        self._answers[request_id] = answered
        self._answers.move_to_end(request_id)
        while len(self._answers) > self._capacity:
            self._answers.popitem(last=False)

    def find(self, request_id: str) -> Answered | None:
        """None: not remembered, or no longer."""
        return self._answers.get(request_id)


class Opinions:
    """The last opinions; the oldest leave first, a second one on a request replaces the first.

    Expected quality is a mean of the estimate and of the scores of the same model's answers, these
    weighted by how alike the prompts are (kernel regression: Nadaraya 1964, Watson 1964): the
    square of their embeddings' cosine, nothing where it is below 0. So it stays between 0 and 1, no
    score at or above it lowers it, and no score of one model moves another's.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._places: OrderedDict[str, int] = OrderedDict()  # request id → place in what follows
        self._answered: list[Answered] = []
        self._scores = np.zeros(capacity)
        self._models = np.zeros(capacity, np.int64)
        self._tasks = np.zeros(capacity, np.int64)
        self._numbers: dict[str, int] = {"": 0}  # of models and of tasks
        self._rows = np.zeros((0, 0), np.float32)  # of length 0 where there is none
        self._has_row = np.zeros(capacity, bool)

    def __len__(self) -> int:
        return len(self._places)

    def find(self, request_id: str) -> Answered | None:
        """What a remembered opinion is on."""
        place = self._places.get(request_id)
        return None if place is None else self._answered[place]

    def add(self, opinion: Opinion) -> bool:
        """Whether it replaces an earlier one, of which it keeps the age."""
        place = self._places.get(opinion.request_id)
        replaces = place is not None
        if place is None:
            place = self._new_place()
            self._places[opinion.request_id] = place
        self._put(place, opinion)
        return replaces

    def corrected(self, row: Floats | None, task: str) -> Callable[[str, float], float]:
        """(model, estimated quality of its answer to the prompt) → the expected quality.

        row: float32[dim], the prompt's unit embedding. task: empty where it is out of scope.
        """
        if not self._places:
            return lambda model, estimate: estimate
        count = len(self._answered)
        weights, models = self._weights(row, task), self._models[:count]
        totals = np.bincount(models, weights, len(self._numbers))
        sums = np.bincount(models, weights * self._scores[:count], len(self._numbers))

        def correct(model: str, estimate: float) -> float:
            number = self._numbers.get(model)
            if number is None:
                return estimate
            found = (ESTIMATE_WEIGHT * estimate + sums[number]) / (ESTIMATE_WEIGHT + totals[number])
            return min(1.0, max(0.0, float(found)))

        return correct

    def _weights(self, row: Floats | None, task: str) -> NDArray[np.float64]:
        """float64[opinions], each 0 to 1."""
        count = len(self._answered)
        number = self._numbers.get(task, 0)
        is_same = (self._tasks[:count] == number) & (number != 0)
        weights = np.where(is_same, SAME_TASK_WEIGHT, 0.0)
        if row is None or row.shape != self._rows.shape[1:]:
            return weights
        cosines = np.clip(self._rows[:count] @ row, 0.0, 1.0).astype(np.float64)
        return np.where(self._has_row[:count], cosines**2, weights)

    def _new_place(self) -> int:
        if len(self._places) < self._capacity:
            return len(self._places)
        _, place = self._places.popitem(last=False)
        return place

    def _put(self, place: int, opinion: Opinion) -> None:
        answered = opinion.answered
        self._answered[place : place + 1] = [answered]
        self._scores[place] = opinion.score
        self._models[place] = self._number(answered.model)
        self._tasks[place] = self._number(answered.task)
        row = answered.row
        if row is not None and not len(self._rows):
            self._rows = np.zeros((self._capacity, len(row)), np.float32)
        self._has_row[place] = row is not None and row.shape == self._rows.shape[1:]
        if self._has_row[place]:
            self._rows[place] = row

    def _number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))


class OpinionStore(Protocol):
    """Keeps opinions over a restart."""

    async def write(self, opinion: Opinion) -> None:
        """Durable when this returns."""
        ...

    async def read(self) -> list[Opinion]:
        """The oldest first."""
        ...


class Feedback:
    """Remembers answers for a while, and what callers said of them for long."""

    def __init__(self, store: OpinionStore, recent: RecentAnswers, opinions: Opinions) -> None:
        self._store = store
        self._recent = recent
        self._opinions = opinions

    async def start(self) -> None:
        """Read what was said before."""
        for opinion in await self._store.read():
            self._opinions.add(opinion)

    def answered(
        self, request_id: str, model: str, task: str, row: Floats | None, caller: str = ""
    ) -> None:
        """A request was answered, and may be scored from now on. caller: whose it is."""
        half = None if row is None else row.astype(np.float16)
        self._recent.remember(request_id, Answered(model, task, half, caller))

    async def record(
        self, request_id: str, score: float, model: str, caller: str | None = None
    ) -> tuple[str, bool]:
        """The model that answered, and whether this replaces an earlier opinion. Durable then.

        model: what the caller thinks that it was; empty: it does not say. caller: who scores, where
        that was proven: it knows of its own answers only. Raises UnknownRequest, InvalidParameter.
        """
        answered = self._recent.find(request_id) or self._opinions.find(request_id)
        if answered is None or caller not in (None, answered.caller):
            raise UnknownRequest(
                f"no answer to {request_id!r} is remembered here", request_id=request_id
            )
        if model and model != answered.model:
            text = f"model: {answered.model} answered {request_id!r}, not {model}"
            raise InvalidParameter(text, field="model")
        opinion = Opinion(request_id, answered, score)
        await self._store.write(opinion)
        return answered.model, self._opinions.add(opinion)

    def corrected(self, row: Floats | None, task: str) -> Callable[[str, float], float]:
        """See Opinions."""
        return self._opinions.corrected(row, task)
