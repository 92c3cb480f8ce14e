"""Expected failures. Each has one wire reason; `rpc.py` maps reasons to gRPC codes."""

from __future__ import annotations

from deltafleet.v1.error_reason_pb2 import ErrorReason


class FleetError(Exception):
    """A failure that the caller is told of, with its reason.

    metadata: what varies in the text, for programs. retry_after_s: set where waiting helps.
    """

    reason: ErrorReason.ValueType = ErrorReason.ERROR_REASON_INTERNAL

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, **metadata: str | int | float
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.metadata = {key: str(value) for key, value in metadata.items()}


class PromptTooLong(FleetError):
    """Prompt and at least one token of answer do not fit into the context."""

    reason = ErrorReason.ERROR_REASON_PROMPT_TOO_LONG


class InvalidParameter(FleetError):
    """A field is outside its range, or the model cannot take it."""

    reason = ErrorReason.ERROR_REASON_INVALID_PARAMETER


class UnknownModel(FleetError):
    """No model of that name."""

    reason = ErrorReason.ERROR_REASON_UNKNOWN_MODEL


class UnknownRequest(FleetError):
    """Nothing of a request of that id is remembered."""

    reason = ErrorReason.ERROR_REASON_UNKNOWN_REQUEST


class MalformedMessage(FleetError):
    """The bytes are not a message of the expected type."""

    reason = ErrorReason.ERROR_REASON_MALFORMED_MESSAGE


class UnknownField(FleetError):
    """The message has a field that this server does not know."""

    reason = ErrorReason.ERROR_REASON_UNKNOWN_FIELD


class MessageTooLarge(FleetError):
    """The message is larger than the server takes."""

    reason = ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE


class PoolSaturated(FleetError):
    """Every worker is at its limit, or an answer would come too late."""

    reason = ErrorReason.ERROR_REASON_POOL_SATURATED


class CallerSaturated(FleetError):
    """The caller has more than its share of what the fleet has room for."""

    reason = ErrorReason.ERROR_REASON_CALLER_SATURATED


class NoWorkerReady(FleetError):
    """No worker is up."""

    reason = ErrorReason.ERROR_REASON_NO_WORKER_READY


class WorkerLost(FleetError):
    """The worker went away while it was answering."""

    reason = ErrorReason.ERROR_REASON_WORKER_LOST


class Draining(FleetError):
    """The server is shutting down."""

    reason = ErrorReason.ERROR_REASON_DRAINING


class SpecialistUnloadable(FleetError):
    """The specialist's weights cannot be built."""

    reason = ErrorReason.ERROR_REASON_SPECIALIST_UNLOADABLE


class DeadlineExceeded(FleetError):
    """The deadline has passed."""

    reason = ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED


class ConfigRefused(FleetError):
    """fleet.yaml is wrong, or changes what only a start can change; the old one stays in force."""

    reason = ErrorReason.ERROR_REASON_CONFIG_REFUSED


class EngineFailed(FleetError):
    """The engine's computing failed; its log has the traceback."""

    reason = ErrorReason.ERROR_REASON_INTERNAL
