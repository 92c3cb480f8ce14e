"""Whose seconds were they: an engine's busy time, divided among the requests that ran in it."""

from __future__ import annotations

from dataclasses import dataclass

from model_pool.engine_time import US_PER_S, Activity, EngineTime
from model_pool.token_work import TokenTime, TokenWork
from model_pool.turns import Pace

# How much the newest step counts in what is measured.
NEWEST_SHARE = 0.1


@dataclass(slots=True, eq=False)
class Account:
    """One request's share so far."""

    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Computed:
    """What a step computed for a request: tokens of its prompt, and of its answer after the first,
    which comes out of reading the prompt."""

    prompt_token_count: int = 0
    answer_token_count: int = 0

    def __add__(self, other: Computed) -> Computed:
        return Computed(
            self.prompt_token_count + other.prompt_token_count,
            self.answer_token_count + other.answer_token_count,
        )


class BusyMeter:
    """Divides the wall time in which at least one request runs, so that all shares add up to it.

    The engine computes elsewhere, in steps; what is seen of a step is the tokens that come out of
    it, for several requests at once. The seconds since the step before are divided by them. A step
    may read prompts and go on with answers; there, tokens are weighed by the seconds that one of
    their kind takes:

    - an answer's token: the seconds of steps that did nothing else, over their tokens;
    - a prompt's token: the seconds that steps with prompts had beyond what their answers' tokens
      weigh. Each such step is divided by what is known before it; what its prompts got measures
      them anew. As the answers' weight is measured apart, this settles where the prompts' weight
      is what those steps take beyond it.

    Until both are measured, tokens are counted as equal. A prompt counts when its first answer
    token comes, so a prompt that is read in several steps beside others pays its last one, and
    steps in which somebody is still waiting for that token measure no answer.

    busy_s: up to the last settled step. work: it, prompts and answers apart. pace: what a decoding
    step and a prompt token take.
    """

    def __init__(self, time: EngineTime) -> None:
        """time: told when something computes, and read."""
        self.busy_s = 0.0
        self.work = TokenWork()
        self.pace = Pace()
        self._time = time
        self._running: set[Account] = set()
        self._reading: set[Account] = set()  # of them, those whose prompt has not been counted
        self._step: dict[Account, Computed] = {}
        self._prompt_token = TokenTime(NEWEST_SHARE)
        self._answer_token = TokenTime(NEWEST_SHARE)
        self._settled_us = 0

    @property
    def running_count(self) -> int:
        return len(self._running)

    def enter(self, account: Account) -> None:
        """A request begins to run, or goes on."""
        now_us = self._time.begin(Activity.COMPUTING)
        if not self._running:
            self._settled_us = now_us
        self._running.add(account)
        self._reading.add(account)

    def note(self, account: Account, computed: Computed) -> None:
        """Tokens of this request came out of the step that ends with the next `settle`."""
        if computed != Computed():
            self._step[account] = self._step.get(account, Computed()) + computed
            self._reading.discard(account)

    def settle(self) -> None:
        """Divide the seconds since the last time among what was noted since then."""
        if self._step:
            self._settle(self._time.now_us())

    def leave(self, account: Account, *, is_finished: bool) -> None:
        """The request ends or pauses. One broken off pays its part of the step it was in, and the
        last one all that is left, so that no moment in which something ran is nobody's.
        """
        now_us = self._time.end(Activity.COMPUTING)
        if self._step:
            self._settle(now_us)
        if not is_finished or len(self._running) == 1:
            share_us = (now_us - self._settled_us) // len(self._running)
            self._settled_us += share_us
            self._charge(account, share_us / US_PER_S)
        self._running.remove(account)
        self._reading.discard(account)

    def _settle(self, now_us: int) -> None:
        seconds = (now_us - self._settled_us) / US_PER_S
        self._settled_us = now_us
        prompt_weight, answer_weight = self._weights()
        whole = sum(self._step.values(), Computed())
        prompts = whole.prompt_token_count * prompt_weight
        answers = whole.answer_token_count * answer_weight
        unit_s = seconds / (prompts + answers)
        for account, one in self._step.items():
            weight = one.prompt_token_count * prompt_weight + one.answer_token_count * answer_weight
            self._charge(account, unit_s * weight)
        self._measure(unit_s * prompts, unit_s * answers, whole)
        self._step.clear()

    def _charge(self, account: Account, seconds: float) -> None:
        account.busy_s += seconds
        self.busy_s += seconds

    def _weights(self) -> tuple[float, float]:
        """Of a prompt's token and of an answer's."""
        if self._prompt_token.s and self._answer_token.s:
            return self._prompt_token.s, self._answer_token.s
        return 1.0, 1.0

    def _measure(self, prompt_s: float, answer_s: float, whole: Computed) -> None:
        self.work.read(prompt_s, whole.prompt_token_count)
        self.work.answered(answer_s, whole.answer_token_count)
        if whole.prompt_token_count:
            self._prompt_token.add(prompt_s, whole.prompt_token_count)
            self.pace.prompt_token_s = self._prompt_token.s
            return
        if not self._reading:
            self._answer_token.add(answer_s, whole.answer_token_count)
        if whole.answer_token_count == len(self._step):  # one token each
            self.pace.step_s = _moved(self.pace.step_s, answer_s)


def _moved(average: float, newest: float) -> float:
    return average + NEWEST_SHARE * (newest - average) if average else newest
