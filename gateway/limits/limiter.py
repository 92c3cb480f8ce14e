"""Who may come in, and how much that request may cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.caller import Call, Caller, Limits
from gateway.errors import CallerBudgetSpent, LimitsUnavailable, RateLimited
from gateway.limits.allowance import Allowance, GrantedAllowance, budget_spent
from gateway.limits.counters import Ask, Counters, Limit, Rate, Refused, Rest, Verdict
from gateway.limits.ledger_counters import ReadSpent, SeededCounters
from model_pool.call import new_uuid, tell
from model_pool.errors import FleetError

CHARACTERS_PER_TOKEN = 4  # of a prompt that nobody has counted yet
NO_LIMITS = Limits()
UNAVAILABLE = "unavailable"
# One new answer moves a caller's mean by this share of the difference.
SMOOTHING = 0.1
Request = inference_pb2.GenerateRequest | routing_pb2.RouteRequest


class Limiter:
    """limits: of callers by name; what the caller's key says goes before.

    default_output_token_count: of a request that says no longest answer. on_refused: told what was
    refused, by a Limit's value or UNAVAILABLE.
    """

    def __init__(
        self,
        counters: Counters,
        limits: Mapping[str, Limits],
        read_spent: ReadSpent,
        *,
        default_output_token_count: int,
        on_refused: Callable[[str], None],
    ) -> None:
        self._counters = SeededCounters(counters, read_spent)
        self._limits = limits
        self._default_output_token_count = default_output_token_count
        self._on_refused = on_refused
        self._mean_costs_nano_usd: dict[str, float] = {}

    def limits_of(self, caller: Caller) -> Limits:
        """What holds for a caller."""
        named, own = self._limits.get(caller.name, NO_LIMITS), caller.limits
        if own == NO_LIMITS:
            return named
        if named is NO_LIMITS:
            return own
        said = {name: getattr(own, name) for name in Limits.__dataclass_fields__}
        return replace(named, **{name: one for name, one in said.items() if one is not None})

    def admitted(self, call: Call, request: Request) -> Admitted:
        """Count a request in, and what it came to when it ends.

        A request that only asks where it would go is counted as a request, and as nothing else.
        Entering raises RateLimited, CallerBudgetSpent, LimitsUnavailable, LedgerUnavailable.
        """
        limits = self.limits_of(call.caller)
        if isinstance(request, routing_pb2.RouteRequest):
            limits = Limits(requests_per_minute=limits.requests_per_minute)
        is_free = limits == NO_LIMITS
        return Admitted(self, None if is_free else self._ask(call.caller.name, limits, request))

    async def count(self, ask: Ask) -> tuple[Verdict, Allowance]:
        """See Admitted."""
        verdict = await self._counters.admit(
            ask, lambda abandoned: self.settle(ask, abandoned, Allowance())
        )
        _tell("requests", verdict.requests)
        _tell("tokens", verdict.tokens)
        if verdict.refused:
            raise _refusal(verdict.refused, ask)
        if verdict.grant is None:
            return verdict, Allowance()
        return verdict, GrantedAllowance(self._counters, ask.caller, ask.limits, verdict.grant)

    def note(self, error: BaseException | None) -> None:
        """What a request ended with, where it was a limit."""
        if isinstance(error, RateLimited | CallerBudgetSpent):
            self._on_refused(error.metadata["limit"])
        elif isinstance(error, LimitsUnavailable):
            self._on_refused(UNAVAILABLE)

    async def settle(self, ask: Ask, verdict: Verdict, allowance: Allowance) -> None:
        """What it came to."""
        used = allowance.used
        if ask.has_budget:
            mean = self._mean_costs_nano_usd.get(ask.caller, float(used.cost_nano_usd))
            mean += SMOOTHING * (used.cost_nano_usd - mean)
            self._mean_costs_nano_usd[ask.caller] = mean
        await self._counters.settle(
            Rest(
                ask.caller,
                ask.lease,
                verdict.second,
                used.token_count - ask.token_count,
                allowance.grant or verdict.grant,
                used.cost_nano_usd,
            )
        )

    def _ask(self, caller: str, limits: Limits, request: Request) -> Ask:
        token_count = 0
        if isinstance(request, inference_pb2.GenerateRequest):
            longest = max(0, request.max_output_token_count) or self._default_output_token_count
            token_count = prompt_token_count(request) + longest
        mean = self._mean_costs_nano_usd.get(caller, 0.0)
        return Ask(caller, limits, token_count, new_uuid(), round(2 * mean))


class Admitted:
    """A request that is counted in for as long as an `async with` block lasts; see Limiter.

    ask: None where nothing limits it.
    """

    def __init__(self, limiter: Limiter, ask: Ask | None) -> None:
        self._limiter = limiter
        self._ask = ask

    async def __aenter__(self) -> Allowance:
        if self._ask is None:
            return Allowance()
        try:
            self._verdict, self._allowance = await self._limiter.count(self._ask)
        except FleetError as error:
            self._limiter.note(error)
            raise
        return self._allowance

    async def __aexit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ask is None:
            return
        try:
            await self._limiter.settle(self._ask, self._verdict, self._allowance)
        except FleetError as failure:
            self._limiter.note(failure)
            raise
        self._limiter.note(error)


def prompt_token_count(request: inference_pb2.GenerateRequest) -> int:
    """An estimate, before anybody has read the prompt."""
    characters = len(request.prompt) + sum(len(one.content) for one in request.messages)
    return -(-characters // CHARACTERS_PER_TOKEN)


def _refusal(refused: Refused, ask: Ask) -> FleetError:
    limits, wait_s = ask.limits, refused.retry_after_s
    if refused.limit in (Limit.DAY, Limit.MONTH):
        return budget_spent(refused, limits)
    count = {
        Limit.REQUESTS: limits.requests_per_minute,
        Limit.TOKENS: limits.tokens_per_minute,
        Limit.STREAMS: limits.concurrent_streams,
    }[refused.limit]
    told = f"{refused.limit.value.replace('_', ' ')}: at most {count}"
    if refused.limit is Limit.TOKENS:
        told += f"; this request may come to {ask.token_count}"
    assert count is not None, "it refused"
    return RateLimited(told, retry_after_s=wait_s, limit=refused.limit.value, limit_count=count)


def _tell(kind: str, rate: Rate | None) -> None:
    """As OpenAI names them, so that its clients find them."""
    if rate is not None:
        tell(f"x-ratelimit-limit-{kind}", str(rate.limit))
        tell(f"x-ratelimit-remaining-{kind}", str(rate.remaining))
        tell(f"x-ratelimit-reset-{kind}", f"{rate.reset_s:.3f}s")
