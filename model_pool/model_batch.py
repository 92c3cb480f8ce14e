"""The jobs of one loaded model that compute together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from model_pool.active_job import ActiveJob, LoadedModel
from model_pool.slot_cache import SlotCache
from model_pool.token_choice import choose_tokens, log_probabilities

# Tokens, padding included, of one prefill pass. It bounds its memory, and how long the answers
# that are already running wait for it.
PREFILL_TOKEN_COUNT = 2048


@dataclass(frozen=True, slots=True)
class Advance:
    """What one step did for one job: tokens computed, and the token that it chose.

    log_probability: of that token; None where the job does not ask.
    """

    job: ActiveJob
    computed_token_count: int
    token_id: int
    log_probability: float | None


class ModelBatch:
    """Admitted and running jobs of one model. Used by the step thread alone.

    `admit` gives a job a place; `prefill` reads its prompt and makes it a row; `decode` adds one
    token to every row.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._admitted: deque[ActiveJob] = deque()
        self._rows: list[ActiveJob] = []
        self._cache = SlotCache()
        self._device: torch.device = next(model.module.parameters()).device

    @property
    def running_count(self) -> int:
        """Jobs that have a place."""
        return len(self._admitted) + len(self._rows)

    @property
    def has_prompts(self) -> bool:
        """`prefill` has something to read."""
        return bool(self._admitted)

    @property
    def has_rows(self) -> bool:
        """`decode` has something to go on with."""
        return bool(self._rows)

    @property
    def is_empty(self) -> bool:
        return not (self._admitted or self._rows)

    def jobs(self) -> Iterator[ActiveJob]:
        """All jobs, those included whose prompts were not read yet."""
        yield from self._rows
        yield from self._admitted

    def admit(self, job: ActiveJob) -> None:
        """Give the job a place in the next step."""
        job.is_running = True
        self._admitted.append(job)

    def prefill(self) -> list[Advance]:
        """Read the prompts of admitted jobs, as many as fit into one pass; there is one."""
        jobs = self._next_prefill()
        counts = [len(job.prompt_ids) for job in jobs]
        cache = DynamicCache()
        logits = self._forward(cache, *self._padded(jobs))
        chosen = _choose(logits, jobs)
        self._cache.join(cache, counts)
        self._rows += jobs
        for _ in jobs:
            self._admitted.popleft()
        return [Advance(*fields) for fields in zip(jobs, counts, *chosen, strict=True)]

    def decode(self) -> list[Advance]:
        """Add one token to every row, in one forward pass; there is one."""
        self._cache.reserve()
        last = torch.tensor([[job.last_token_id] for job in self._rows], device=self._device)
        positions, mask = self._cache.step_inputs(self._device)
        logits = self._forward(self._cache, last, positions, mask)
        self._cache.advance()
        chosen = _choose(logits, self._rows)
        ones = [1] * len(self._rows)
        return [Advance(*fields) for fields in zip(self._rows, ones, *chosen, strict=True)]

    def drop_ended(self) -> list[ActiveJob]:
        """Take out the jobs that are finished or cancelled. Returns the cancelled ones."""
        # Asked once: the event loop may cancel another one meanwhile, whose end would not be told.
        cancelled = {job for job in self.jobs() if job.is_cancelled}
        for row in range(len(self._rows) - 1, -1, -1):
            if self._rows[row] in cancelled or self._rows[row].finish_reason is not None:
                self._cache.remove(row)
                self._rows[row] = self._rows[-1]
                self._rows.pop()
        self._admitted = deque(job for job in self._admitted if job not in cancelled)
        return list(cancelled)

    def drop_running(self) -> list[ActiveJob]:
        """Take out every job that has a place, and what it had cached."""
        dropped = [*self._rows, *self._admitted]
        self._rows.clear()
        self._admitted.clear()
        self._cache.clear()
        return dropped

    def _forward(
        self,
        cache: DynamicCache | SlotCache,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Logits after the last token of each row: [row, vocabulary]."""
        output = self.model.module(
            input_ids=token_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _next_prefill(self) -> list[ActiveJob]:
        """The first admitted jobs whose padded prompts fit into one pass; at least one."""
        jobs: list[ActiveJob] = []
        longest = 0
        for job in self._admitted:
            longest = max(longest, len(job.prompt_ids))
            if jobs and longest * (len(jobs) + 1) > PREFILL_TOKEN_COUNT:
                break
            jobs.append(job)
        return jobs

    def _padded(
        self, jobs: list[ActiveJob]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Prompts padded on the left: token ids, positions, and a mask if there is padding."""
        longest = max(len(job.prompt_ids) for job in jobs)
        gaps = [longest - len(job.prompt_ids) for job in jobs]
        rows = [[0] * gap + list(job.prompt_ids) for gap, job in zip(gaps, jobs, strict=True)]
        token_ids = torch.tensor(rows, device=self._device)
        columns = torch.arange(longest, device=self._device)
        starts = torch.tensor(gaps, device=self._device)[:, None]
        positions = (columns - starts).clamp_(min=0)
        return token_ids, positions, columns >= starts if any(gaps) else None


def _choose(logits: torch.Tensor, jobs: list[ActiveJob]) -> tuple[list[int], list[float | None]]:
    token_ids = choose_tokens(logits, [job.chooser for job in jobs])
    wanted = [job.job.wants_log_probability for job in jobs]
    return token_ids, log_probabilities(logits, token_ids, wanted)
