"""Expected failures of the gateway's own making."""

from __future__ import annotations

from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool.errors import FleetError


class EmptyPrompt(FleetError):
    """Neither a prompt nor a message with text."""

    reason = ErrorReason.ERROR_REASON_EMPTY_PROMPT


class NoModelQualifies(FleetError):
    """No model meets the constraints."""

    reason = ErrorReason.ERROR_REASON_NO_MODEL_QUALIFIES


class ClosedApiFailed(FleetError):
    """The closed API that the request was sent to failed."""

    reason = ErrorReason.ERROR_REASON_CLOSED_API_FAILED


class BudgetSpent(FleetError):
    """What the request may cost does not fit into the closed API's budget of today."""

    reason = ErrorReason.ERROR_REASON_BUDGET_SPENT


class RedactionFailed(FleetError):
    """What was to be taken out of a message before it leaves could not be."""

    reason = ErrorReason.ERROR_REASON_INTERNAL


class RequestIdReused(FleetError):
    """The caller gave the id of another request of its own."""

    reason = ErrorReason.ERROR_REASON_REQUEST_ID_REUSED


class AnswerNotKept(FleetError):
    """Another gateway answered the request, and nobody can tell its answer again."""

    reason = ErrorReason.ERROR_REASON_ANSWER_NOT_KEPT


class FeedbackOff(FleetError):
    """The fleet keeps no feedback."""

    reason = ErrorReason.ERROR_REASON_FEEDBACK_OFF


class LedgerUnavailable(FleetError):
    """The ledger's database is away: what happened cannot be accounted for."""

    reason = ErrorReason.ERROR_REASON_LEDGER_UNAVAILABLE


class Unauthenticated(FleetError):
    """Nobody that is known: no key, token or certificate, or a wrong one."""

    reason = ErrorReason.ERROR_REASON_UNAUTHENTICATED


class PermissionDenied(FleetError):
    """Somebody that is known asks for what it may not have."""

    reason = ErrorReason.ERROR_REASON_PERMISSION_DENIED


class RateLimited(FleetError):
    """The caller asks for more in a minute, or at once, than it may."""

    reason = ErrorReason.ERROR_REASON_RATE_LIMITED


class CallerBudgetSpent(FleetError):
    """The caller's budget of the day or month holds no more."""

    reason = ErrorReason.ERROR_REASON_CALLER_BUDGET_SPENT


class LimitsUnavailable(FleetError):
    """What the caller has spent is not known: the store of all gateways is away."""

    reason = ErrorReason.ERROR_REASON_LIMITS_UNAVAILABLE
