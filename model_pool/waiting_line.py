"""What waits for one model, summed up as requests come and go. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable

from model_pool.switching import Policy, Priority, Queue, Waiting, make_queue

_Entry = tuple[float, int, Hashable]

_SLACK_COUNT = 64  # entries of requests that have gone, before they are looked for


class WaitingLine:
    """Requests that wait for one model. `sum_up` is `queue_of` of them, at a cost that does not
    grow with their number: thousands may wait.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, tuple[int, Waiting]] = {}
        self._number = 0
        self._counts = [0 for _ in Priority]
        self._arrivals: list[list[_Entry]] = [[] for _ in Priority]
        self._latest_starts: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._waiting

    def add(self, key: Hashable, request: Waiting) -> None:
        """key: of this request, not in the line now."""
        assert key not in self._waiting
        self._number += 1
        self._waiting[key] = self._number, request
        self._counts[request.priority] += 1
        heapq.heappush(self._arrivals[request.priority], (request.since_s, self._number, key))
        if request.deadline_s < math.inf:
            latest_s = request.deadline_s - request.work_s
            heapq.heappush(self._latest_starts, (latest_s, self._number, key))

    def remove(self, key: Hashable) -> None:
        """Raises KeyError."""
        _, request = self._waiting.pop(key)
        self._counts[request.priority] -= 1
        for heap in (*self._arrivals, self._latest_starts):
            if len(heap) > 2 * len(self._waiting) + _SLACK_COUNT:
                heap[:] = [entry for entry in heap if self._is_waiting(entry)]
                heapq.heapify(heap)

    def sum_up(
        self, model: str, policy: Policy, *, switch_cost_s: float, left_s: float = -math.inf
    ) -> Queue:
        """At least one request must wait. The arguments are those of `queue_of`."""
        interactive_s, standard_s, batch_s = (
            max(self._least(heap), left_s) for heap in self._arrivals
        )
        weights = zip(self._counts, policy.weights, strict=True)
        return make_queue(
            model,
            policy,
            count=len(self._waiting),
            weight=sum([count * weight for count, weight in weights]),
            waits_s=(interactive_s, standard_s, batch_s),
            latest_start_s=self._least(self._latest_starts),
            switch_cost_s=switch_cost_s,
        )

    def _least(self, heap: list[_Entry]) -> float:
        """The least value of those that wait, inf without one."""
        while heap and not self._is_waiting(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def _is_waiting(self, entry: _Entry) -> bool:
        found = self._waiting.get(entry[2])
        return found is not None and found[0] == entry[1]
