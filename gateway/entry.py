"""One request as it happens: what its ledger row will say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.answer import AnswerPiece
from gateway.ledger_store import RequestRow
from gateway.ledger_store.rows import new_row_id
from gateway.router import Route
from model_pool.call import current_trace


class Entry:
    """One request as it happens.

    prompt_texts: of every message; they and the answer's text go no further than the baselines'
    token counts. caller: as it names itself. trace_id: the sampled W3C trace, in hexadecimal.
    Either is empty where unknown.
    """

    def __init__(
        self,
        request_id: str,
        route: Route,
        prompt_texts: Sequence[str],
        clock: Callable[[], float],
        *,
        caller: str = "",
    ) -> None:
        self.request_id = request_id
        self.caller = caller
        self._row_id = new_row_id()
        self.route = route
        self.prompt_texts = prompt_texts
        self._output_texts: list[str] = []
        self._clock = clock
        self._started_s = clock()
        self.trace_id = current_trace.get()
        self.exemplar = {"trace_id": self.trace_id} if self.trace_id else None
        self.first_token_s: float | None = None
        self.token_gaps_s: list[float] = []  # per token, of each piece after the first
        self.token_mean_s: float | None = None  # of all tokens after the first piece
        self._first_count = 0
        self._last_token_s = 0.0
        self.total_s = 0.0
        self.last: AnswerPiece | None = None
        self.outcome = ""
        self.baselines: dict[str, int] = {}

    def add(self, piece: AnswerPiece) -> None:
        """Take a piece of the answer into account."""
        count = self.last.output_token_count if self.last else 0
        if piece.output_token_count > count:
            self._time_tokens(piece.output_token_count, piece.output_token_count - count)
        self._output_texts.append(piece.text)
        self.last = piece

    def settle(self, rest: AnswerPiece) -> None:
        """What an answer that was broken off used beyond what its pieces told."""
        if self.last is None:
            self.last = rest
            return
        self.last = replace(
            self.last,
            prompt_token_count=self.last.prompt_token_count + rest.prompt_token_count,
            output_token_count=self.last.output_token_count + rest.output_token_count,
            cost_nano_usd=self.last.cost_nano_usd + rest.cost_nano_usd,
            busy_s=self.last.busy_s + rest.busy_s,
            worker=self.last.worker or rest.worker,
        )

    def _time_tokens(self, token_count: int, new_count: int) -> None:
        now_s = self._clock() - self._started_s
        if self.first_token_s is None:
            self.first_token_s, self._first_count = now_s, token_count
        else:
            self.token_gaps_s.append((now_s - self._last_token_s) / new_count)
            later_count = token_count - self._first_count
            if later_count > 0:
                self.token_mean_s = (now_s - self.first_token_s) / later_count
        self._last_token_s = now_s

    @property
    def output_text(self) -> str:
        """The answer so far."""
        return "".join(self._output_texts)

    def close(self, outcome: str, baselines: dict[str, int]) -> None:
        """Nothing more comes. baselines: what each would have charged, in nano-dollars."""
        self.outcome = outcome
        self.total_s = self._clock() - self._started_s
        self.baselines = baselines

    def row(self, finished_at_us: int) -> RequestRow:
        """What the ledger keeps of it."""
        last = self.last
        return RequestRow(
            request_id=self.request_id,
            finished_at_us=finished_at_us,
            model=self.route.target.name,
            task=self.route.task,
            reason=self.route.reason.value,
            outcome=self.outcome,
            worker=last.worker if last else "",
            weights_digest=last.weights_digest if last else "",
            prompt_token_count=last.prompt_token_count if last else 0,
            output_token_count=last.output_token_count if last else 0,
            busy_us=round(last.busy_s * 1e6) if last else 0,
            first_token_us=None if self.first_token_s is None else round(self.first_token_s * 1e6),
            total_us=round(self.total_s * 1e6),
            cost_nano_usd=last.cost_nano_usd if last else 0,
            baselines=self.baselines,
            caller=self.caller,
            trace_id=self.trace_id,
            row_id=self._row_id,
        )
