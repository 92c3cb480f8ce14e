"""The JSON that clients send, field by field. What we cannot do is refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gateway.requests import (
    LARGEST_OUTPUT_TOKEN_COUNT,
    LARGEST_SEED,
    LARGEST_STOP_COUNT,
    LONGEST_STOP_CHARACTER_COUNT,
)

UNKNOWN = "unknown_field"
_SHOWN_CHARACTER_COUNT = 64
_LARGEST_COST_USD = 1e6


def _only(*silent: object) -> AfterValidator:
    """For a field that may be there as long as it asks for nothing: null, or one of these."""

    def check(value: object) -> object:
        if value is None or any(type(value) is type(one) and value == one for one in silent):
            return value
        raise PydanticCustomError("not_supported", "not supported by this server: leave it out")

    return AfterValidator(check)


def _listed(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _as_parts(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Fields(BaseModel):
    """An object of which every key is known; "1" is no number, and NaN neither."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _knows_every_key(cls, value: object) -> object:
        """The first unknown key alone: a list of 100,000 of them takes a third of a second."""
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                shown = str(key)[:_SHOWN_CHARACTER_COUNT]
                raise PydanticCustomError(UNKNOWN, "no such parameter", {"name": shown})
        return value


class TextPart(Fields):
    """A part of a message."""

    type: Literal["text"]
    text: str


Nothing = Annotated[Any, _only()]


class Message(Fields):
    """A turn. What an answer of ours has beside its text may come back with it, as nothing."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], FailFast(), BeforeValidator(_as_parts)]
    name: Nothing = None
    refusal: Nothing = None
    annotations: Annotated[Any, _only([])] = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: Annotated[Any, _only([])] = None
    tool_call_id: Nothing = None


class StreamOptions(Fields):
    """How an answer streams."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, _only(False)] = None


class Wishes(Fields):
    """What only this server knows: the constraints and the priority of GenerateRequest."""

    min_quality: float | None = Field(None, ge=0, le=1)
    max_cost_usd: float | None = Field(None, ge=0, le=_LARGEST_COST_USD)
    accepts_less: bool | None = None
    priority: Literal["interactive", "standard", "batch"] | None = None
    explain: bool | None = None


Stop = Annotated[
    str, StringConstraints(min_length=1, max_length=LONGEST_STOP_CHARACTER_COUNT, strict=True)
]
TokenCount = Annotated[int, Field(ge=1, le=LARGEST_OUTPUT_TOKEN_COUNT)]
Tags = dict[str, str]


class Asked(Fields):
    """What both kinds of completion take. user, metadata and the like change no answer."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    max_tokens: TokenCount | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    stop: Annotated[
        list[Stop], FailFast(), Field(max_length=LARGEST_STOP_COUNT), BeforeValidator(_listed)
    ] = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    deltafleet: Wishes | None = None
    user: str | None = None
    n: Annotated[Any, _only(1)] = None
    presence_penalty: Annotated[Any, _only(0, 0.0)] = None
    frequency_penalty: Annotated[Any, _only(0, 0.0)] = None
    logit_bias: Annotated[Any, _only({})] = None
    logprobs: Annotated[Any, _only(False)] = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Asked:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "stream_options", "stream_options: only where stream is true", {}
            )
        return self

    @property
    def longest(self) -> int | None:
        """The longest answer, in tokens; None: the fleet's default."""
        return self.max_tokens


class ChatAsked(Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], FailFast()]
    max_completion_tokens: TokenCount | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    metadata: Tags | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    store: Annotated[Any, _only(False)] = None
    top_logprobs: Annotated[Any, _only(0, 0.0)] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    tools: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    parallel_tool_calls: Annotated[Any, _only(True, False)] = None
    functions: Annotated[Any, _only([])] = None
    function_call: Annotated[Any, _only("none", "auto")] = None
    modalities: Annotated[Any, _only(["text"])] = None
    reasoning_effort: Annotated[Any, _only("none")] = None
    verbosity: Annotated[Any, _only("medium")] = None
    audio: Nothing = None
    prediction: Nothing = None
    web_search_options: Nothing = None
    moderation: Nothing = None
    prompt_cache_options: Nothing = None

    @model_validator(mode="after")
    def _one_length(self) -> ChatAsked:
        if self.max_tokens not in (None, self.longest):
            raise PydanticCustomError(
                "two_lengths", "max_tokens and max_completion_tokens differ: give one", {}
            )
        return self

    @property
    def longest(self) -> int | None:
        """The longest answer, in tokens; None: the fleet's default."""
        return self.max_completion_tokens or self.max_tokens


class CompletionAsked(Asked):
    """POST /v1/completions. One prompt, as text."""

    prompt: Annotated[
        list[Annotated[str, Field(strict=True)]],
        FailFast(),
        Field(min_length=1, max_length=1),
        BeforeValidator(_listed),
    ]
    best_of: Annotated[Any, _only(1)] = None
    echo: Annotated[Any, _only(False)] = None
    suffix: Annotated[Any, _only("")] = None


class EmbeddingsAsked(Fields):
    """POST /v1/embeddings."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    input: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, strict=True)]],
        FailFast(),
        Field(min_length=1, max_length=256),
        BeforeValidator(_listed),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
