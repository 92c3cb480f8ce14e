"""Every closed API of the fleet, by its name."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping

from deltafleet.v1 import routing_pb2, worker_pb2
from gateway.answer import AnswerPiece
from gateway.closed_apis.client import ClosedApiClient
from gateway.closed_apis.configuration import ClosedApi
from gateway.closed_apis.protocol import ApiProtocol
from gateway.closed_apis.redaction import Redactor, find_hook
from gateway.errors import BudgetSpent
from gateway.pricing import TokenPrice
from gateway.spending import Budget, Reservation
from model_pool.call import time_left_s
from model_pool.settings import SettingsError


def open_closed_api(
    name: str,
    settings: ClosedApi,
    key: str,
    price: TokenPrice,
    budget: Budget,
    *,
    time_left: Callable[[], float | None] = time_left_s,
) -> ClosedApiClient:
    """A client that has asked nothing yet. Raises SettingsError."""
    try:
        hook = find_hook(settings.redact_hook) if settings.redact_hook else None
    except SettingsError as error:
        raise SettingsError(f"closed_apis.{name}.{error}") from None
    protocol = _open_protocol(settings, key)
    redactor = Redactor(settings.redact, hook)
    return ClosedApiClient(name, settings, protocol, price, budget, redactor, time_left=time_left)


def _open_protocol(settings: ClosedApi, key: str) -> ApiProtocol:
    # Imported here: each brings the provider's own library, 20 to 40 MB.
    if settings.kind == "openai":
        from gateway.closed_apis.openai_chat import OpenAIChat

        return OpenAIChat(settings, key)
    from gateway.closed_apis.anthropic_messages import AnthropicMessages

    return AnthropicMessages(settings, key)


class ReservedAnswer:
    """One answer whose price at most is held. See Source."""

    def __init__(self, client: ClosedApiClient, reservation: Reservation) -> None:
        self._client = client
        self._reservation = reservation

    def generate(self, request: worker_pb2.RunRequest) -> AsyncGenerator[AnswerPiece, None]:
        """See Source."""
        return self._client.generate(request, self._reservation)


class ClosedApis:
    """default_output_token_count: of a request that says no longest answer."""

    def __init__(
        self, clients: Mapping[str, ClosedApiClient], *, default_output_token_count: int
    ) -> None:
        self._clients = clients
        self._default_output_token_count = default_output_token_count

    async def stop(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.stop()

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """By the API's name."""
        return {name: client.budget for name, client in self._clients.items()}

    def has(self, model: str) -> bool:
        """Whether this is one of them."""
        return model in self._clients

    def refusal(
        self,
        model: str,
        messages: Iterable[routing_pb2.ChatMessage],
        max_output_token_count: int,
    ) -> BudgetSpent | None:
        """Why a model is not asked now. None: it may be, as each that is no closed API."""
        client = self._clients.get(model)
        if client is None:
            return None
        return client.refusal(messages, max_output_token_count or self._default_output_token_count)

    @contextlib.contextmanager
    def reserved(self, request: worker_pb2.RunRequest) -> Iterator[ReservedAnswer]:
        """A place within the budget of the API that is request.model. Raises BudgetSpent."""
        client = self._clients[request.model]
        with client.reserve(request) as reservation:
            yield ReservedAnswer(client, reservation)
