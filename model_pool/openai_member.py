"""A server that somebody runs already, OpenAI-compatible HTTP, as a member of the pool.

It cannot be told to load, evict or switch, and says little of itself: which models it lists. What a
worker of ours would report (uptime, busy seconds, requests per model) is seen from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from deltafleet.v1 import worker_pb2
from model_pool.chat import ChatPiece, chat_arguments, stream_chat
from model_pool.engine import Usage
from model_pool.engine_time import EngineTime, Spent
from model_pool.errors import (
    DeadlineExceeded,
    FleetError,
    InvalidParameter,
    PoolSaturated,
    PromptTooLong,
    SpecialistUnloadable,
    UnknownRequest,
    WorkerLost,
)
from model_pool.member import RETRY_AFTER_S, Status
from model_pool.run_ends import RunEnds, to_settled
from model_pool.settings import OpenAIServer
from model_pool.shared_time import SharedTime

POLL_INTERVAL_S = 2.0
POLL_LIMIT_S = 5.0
SUSPECT_PAUSE_S = 0.1
CONNECT_LIMIT_S = 5.0
LONGEST_RETRY_AFTER_S = 3600.0
LONGEST_TEXT = 500  # characters of a server's message; it travels in a header
# How servers say that a prompt is too long: OpenAI's code, vLLM's and llama.cpp's texts.
CONTEXT_WORDS = re.compile(r"context[ _](length|window|size)|maximum model length", re.IGNORECASE)
# What reading an answer that is no list of models raises.
NO_LIST = (AttributeError, KeyError, TypeError, ValueError)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Life:
    """A time in which the server answered every poll.

    listed: the models that it named last, with their context in tokens where it said it, else 0.
    before: what had been spent when it began.
    """

    listed: Mapping[str, int]
    before: Spent
    start_time: float = field(default_factory=time.time)
    incarnation: str = field(default_factory=lambda: str(uuid.uuid4()))


class OpenAIMember:
    """See Member.

    A request's busy_s is its share of the wall time from its sending to its end, divided among the
    requests that this gateway has on the server. The weights' digest is "openai:" and the server's
    own name of the model: what it serves under that name, it does not say.
    """

    def __init__(
        self,
        name: str,
        server: OpenAIServer,
        key: SecretStr | None,
        *,
        price_nano_usd_per_hour: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.in_flight_count = 0
        self._server = server
        self._price_nano_usd_per_hour = price_nano_usd_per_hour
        self._clock = clock
        self._client = openai.AsyncOpenAI(
            base_url=server.url,
            api_key=key.get_secret_value() if key else "none",
            max_retries=0,  # the pool retries
        )
        self._life: _Life | None = None
        self._fault: str | None = None  # the last that was logged, empty for none
        self._suspected = asyncio.Event()
        self._time = EngineTime(clock)
        self._shared = SharedTime(self._time)
        self._ends = RunEnds()
        self._running = Counter[str]()
        self._last_used: dict[str, float] = {}
        self._unweighed: set[str] = set()  # models that refused logprobs in this life
        self._task: asyncio.Task[None] | None = None

    @property
    def incarnation(self) -> str:
        """See Member."""
        return self._life.incarnation if self._life else ""

    @property
    def is_ready(self) -> bool:
        """See Member."""
        return self._life is not None and not self._suspected.is_set()

    @property
    def is_silent(self) -> bool:
        """See Member: it did not answer the last poll."""
        return self._life is None

    @property
    def serves(self) -> frozenset[str]:
        """See Member: what fleet.yaml maps and the server lists."""
        listed = self._life.listed if self._life else {}
        return frozenset(ours for ours, theirs in self._server.models.items() if theirs in listed)

    def may_come_to_serve(self, model: str) -> bool:
        """See Member: what it runs is said at its making."""
        return False

    @property
    def status(self) -> Status | None:
        """See Member."""
        return self.last_word if self.is_ready else None

    @property
    def last_word(self) -> Status | None:
        """See Member."""
        life = self._life
        if life is None:
            return None
        spent = self._time.spent().since(life.before)
        return Status(
            worker=self.name,
            incarnation=life.incarnation,
            state=worker_pb2.WORKER_STATE_READY,
            loaded=[self._loaded(model) for model in sorted(self.serves)],
            running_count=self._running.total(),
            uptime_s=spent.elapsed_s,
            busy_s=spent.busy_s,
            price_nano_usd_per_hour=self._price_nano_usd_per_hour,
            start_time=_timestamp(life.start_time),
            engine="openai",
        )

    @property
    def descriptions(self) -> Mapping[str, worker_pb2.ModelDescription]:
        """See Member: no sizes, and a fault for what the server does not list."""
        if self._life is None:
            return {}
        served = self.serves
        return {
            ours: worker_pb2.ModelDescription(
                model=ours,
                weights_digest=self._digest(ours),
                fault="" if ours in served else f"worker {self.name} does not list {theirs}",
            )
            for ours, theirs in self._server.models.items()
        }

    def start(self, on_change: Callable[[], None]) -> None:
        """See Member."""
        self._task = asyncio.create_task(self._watch(on_change), name=f"watch {self.name}")

    async def stop(self) -> None:
        """See Member."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.close()

    def suspect(self) -> None:
        """See Member. It is polled at once."""
        self._suspected.set()

    async def run(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        """See Member."""
        arguments = self._arguments(request)
        connect_s = CONNECT_LIMIT_S if timeout_s is None else min(timeout_s, CONNECT_LIMIT_S)
        timeout = openai.Timeout(timeout_s, connect=connect_s)
        chat, sent_s = self._chat(request.model, arguments, timeout), self._clock()
        on_end, used = self._ends.begin(request.request_id, request.model), Usage(0, 0, 0.0)
        try:
            with self._counted(request.model) as share_s:
                try:
                    async with contextlib.aclosing(chat) as pieces:
                        async for piece in pieces:
                            used = Usage(
                                piece.prompt_token_count, piece.output_token_count, share_s()
                            )
                            if piece.finish_reason:
                                break
                            yield self._response(request.model, piece, used.busy_s)
                finally:
                    on_end(dataclasses.replace(used, busy_s=share_s()))
            # Its caller may keep the last piece for as long as it likes: nothing runs meanwhile.
            yield self._response(request.model, piece, share_s())
        except openai.OpenAIError as error:
            is_late = timeout_s is not None and self._clock() - sent_s >= timeout_s
            raise self._failure(error, request.model, is_late=is_late) from error

    async def settle(self, request: worker_pb2.RunRequest) -> worker_pb2.SettleRunResponse | None:
        """See Member. The seconds are ours, the tokens those that were heard of."""
        try:
            return to_settled(await self._ends.usage(request.request_id, request.model))
        except UnknownRequest:
            return None

    def _arguments(self, request: worker_pb2.RunRequest) -> dict[str, Any]:
        theirs = self._server.models[request.model]
        # vLLM cuts the answer at its context, but refuses to be asked for more than all of it.
        context = self._life.listed.get(theirs) if self._life else None
        longest = request.max_output_token_count
        arguments = chat_arguments(request, theirs)
        if request.wants_logprob and request.model not in self._unweighed:
            arguments["logprobs"] = True
        return arguments | {"max_tokens": min(longest, context or longest)}

    async def _chat(
        self, model: str, arguments: dict[str, Any], timeout: openai.Timeout
    ) -> AsyncGenerator[ChatPiece, None]:
        """The answer, without log-probabilities from a server that refuses to be asked for them."""
        try:
            async with contextlib.aclosing(stream_chat(self._client, arguments, timeout)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        except openai.APIStatusError as error:
            if "logprobs" not in arguments or "logprobs" not in str(error):
                raise
        arguments = {name: arguments[name] for name in arguments if name != "logprobs"}
        async with contextlib.aclosing(stream_chat(self._client, arguments, timeout)) as pieces:
            async for piece in pieces:
                if model not in self._unweighed:
                    self._unweighed.add(model)
                    extra = {"worker": self.name, "model": model}
                    log.warning("member_refuses_logprobs", extra=extra)
                yield piece

    @contextlib.contextmanager
    def _counted(self, model: str) -> Iterator[Callable[[], float]]:
        self._running[model] += 1
        try:
            with self._shared.request() as share_s:
                yield share_s
        finally:
            self._running[model] -= 1
            self._last_used[model] = time.time()

    def _response(self, model: str, piece: ChatPiece, busy_s: float) -> worker_pb2.RunResponse:
        return worker_pb2.RunResponse(
            text=piece.text,
            prompt_token_count=piece.prompt_token_count,
            output_token_count=piece.output_token_count,
            busy_s=busy_s,
            weights_digest=self._digest(model),
            finish_reason=piece.finish_reason,
            mean_logprob=piece.mean_log_probability,
        )

    def _failure(self, error: openai.OpenAIError, model: str, *, is_late: bool) -> FleetError:
        """The error in our words. A status comes as the answer's or within its stream."""
        if isinstance(error, openai.APITimeoutError) and is_late:
            return DeadlineExceeded("the deadline has passed")
        code = _code(error)
        text = _text(error)
        if code == 429:
            return PoolSaturated(
                f"worker {self.name} takes no more requests",
                retry_after_s=_retry_after_s(error),
                worker=self.name,
            )
        if code == 404:
            return SpecialistUnloadable(
                f"worker {self.name} does not serve {model}: {text}", model=model
            )
        if code in {400, 413, 422}:
            refusal = PromptTooLong if _is_about_context(error) else InvalidParameter
            return refusal(f"worker {self.name} refuses the request: {text}", worker=self.name)
        # The server's own text stays out of the log: it may have the prompt in it.
        kind = type(error).__name__
        log.warning("member_failed", extra={"worker": self.name, "error": kind, "status": code})
        return WorkerLost(
            f"worker {self.name} failed while it was answering: {text}",
            retry_after_s=RETRY_AFTER_S,
            worker=self.name,
        )

    async def _watch(self, on_change: Callable[[], None]) -> None:
        while True:
            try:
                self._hear(await self._poll())
            except (openai.OpenAIError, TimeoutError, *NO_LIST) as error:
                self._life = None
                self._unweighed.clear()
                self._tell(_text(error))
            self._suspected.clear()
            on_change()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._suspected.wait()
                    await asyncio.sleep(SUSPECT_PAUSE_S)

    async def _poll(self) -> dict[str, int]:
        async with asyncio.timeout(POLL_LIMIT_S):
            found: Any = await self._client.get("/models", cast_to=object)
        return {str(one["id"]): int(one.get("max_model_len") or 0) for one in found["data"]}

    def _hear(self, listed: Mapping[str, int]) -> None:
        life = self._life or _Life(listed, self._time.spent())
        self._life = dataclasses.replace(life, listed=listed)
        missing = sorted(set(self._server.models.values()) - set(listed))
        self._tell(f"it does not list {', '.join(missing)}" if missing else "")

    def _tell(self, fault: str) -> None:
        """Log what is wrong, once for as long as it stays the same."""
        if fault != self._fault:
            self._fault = fault
            if fault:
                log.warning("member_fault", extra={"worker": self.name, "reason": fault})
            else:
                log.info("member_ready", extra={"worker": self.name})

    def _loaded(self, model: str) -> worker_pb2.LoadedModel:
        used = self._last_used.get(model)
        return worker_pb2.LoadedModel(
            model=model,
            weights_digest=self._digest(model),
            lease_count=self._running[model],
            last_used_time=None if used is None else _timestamp(used),
        )

    def _digest(self, model: str) -> str:
        return f"openai:{self._server.models[model]}"


def _code(error: openai.OpenAIError) -> int | None:
    """The HTTP status, of the answer or as an error in its stream tells it."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code
    told = error.code if isinstance(error, openai.APIError) else None
    return int(told) if told and told.isdecimal() else None


def _text(error: Exception) -> str:
    told = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    return f"{type(error).__name__}: {told}"[:LONGEST_TEXT]


def _is_about_context(error: openai.OpenAIError) -> bool:
    told = (error.code, error.type) if isinstance(error, openai.APIError) else ()
    return any(CONTEXT_WORDS.search(str(words)) for words in (*told, error))


def _retry_after_s(error: openai.OpenAIError) -> float:
    """What the server asks for where it says so in seconds, within reason."""
    with contextlib.suppress(ValueError):
        if isinstance(error, openai.APIStatusError):
            seconds = float(error.response.headers.get("retry-after", ""))
            if 0 < seconds <= LONGEST_RETRY_AFTER_S:
                return seconds
    return RETRY_AFTER_S


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp
