"""All of fleet.yaml as frozen models. The worker's part of it is in `model_pool/settings.py`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa
from pydantic import Field, model_validator

from gateway.closed_apis.configuration import ClosedApi
from gateway.identity.settings import Identity
from gateway.mixture import ANSWERS, QUESTION, VOTE
from gateway.verifier import ANSWER
from model_pool.settings import BASE_MODEL, FleetPath, Name, PoolSettings, Section
from model_pool.settings_file import load

LARGEST_BUDGET_USD = 1_000_000  # nano-dollars of nine times as much are exact in Redis


class ServerTls(Section):
    """TLS of the doors. The files are PEM, and read again when they change."""

    certificate: FleetPath  # and whatever leads from it to an authority that callers know
    key: FleetPath
    client_ca: FleetPath | None = None  # then every caller must show a certificate of it


class Server(Section):
    """The doors, and the port of the page and /metrics."""

    listen: str = "127.0.0.1:7070"  # gRPC
    http: str | None = None  # OpenAI's API, such as 127.0.0.1:8080; default: no such door
    event_loop: Literal["asyncio", "uvloop"] = "asyncio"  # uvloop: of deltafleet[fast]
    metrics: str = "127.0.0.1:9090"  # always plain: keep it where only you reach it
    tls: ServerTls | None = None  # default: plain text
    health_listen: str | None = None  # gRPC health alone, always plain, for probes; default: none
    max_message_bytes: int = Field(2**20, ge=1024, le=32 * 2**20)
    default_deadline_s: float = Field(120, gt=0)  # and the longest
    receive_limit_s: float = Field(30, gt=0)  # until a request has arrived whole
    connection_limit: int = Field(16_384, ge=1)  # callers' connections; more are closed at once
    stream_limit: int = Field(1024, ge=1)  # calls at a time on a connection; more wait for it
    idle_limit_s: float = Field(900, ge=1, le=10**6)  # a connection without calls is closed
    # A connection is replaced after it, calls on it end first: so callers find new gateways.
    connection_age_s: float = Field(1800, ge=1, le=10**6)
    default_output_token_count: int = Field(256, ge=1)
    drain_limit_s: float = Field(30, ge=0)
    repeat_keep_s: float = Field(600, ge=0)  # that an answer can be heard again by its x-request-id
    repeat_memory_mib: int = Field(64, ge=0)  # of such answers; the oldest leave first
    repeat_shared: bool = True  # such answers lie in the Redis of `limits`, too, for all gateways


class Feedback(Section):
    """What callers said of answers, and how it is learned from."""

    path: FleetPath
    capacity: int = Field(5000, ge=1, le=50_000)  # opinions; the oldest leave first
    recent_count: int = Field(10_000, ge=1)  # answers that may still be scored
    exploration: float = Field(0, ge=0, le=1)  # share of requests that try another model


class VerifierSettings(Section):
    """A model that is asked whether a specialist's answer is right."""

    model: Name  # a specialist, or base
    prompt: str | None = None  # what it is asked, with {question} and {answer} once each
    # How it begins where the answer is right; in quotes, or YAML reads a yes as true.
    accepts: tuple[str, ...] = Field(("yes",), min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        parts = (QUESTION, ANSWER)
        if self.prompt is not None and any(self.prompt.count(part) != 1 for part in parts):
            raise ValueError(f"prompt: {QUESTION} and {ANSWER} once each")
        if not all(any(map(str.isalnum, word)) for word in self.accepts):
            raise ValueError("accepts: words")
        return self


class Escalation(Section):
    """A specialist's answer that is not good enough gives way to another model's.

    Answers of these specialists are held back until they are known to be good enough, so that they
    do not stream. Not for a model that the caller names.
    """

    to: Name  # a closed API, or base
    min_confidence: float | None = Field(None, ge=0, le=1)  # below it, the other model answers
    confidence: FleetPath | None = None  # made by `deltafleet escalation fit`
    verifier: VerifierSettings | None = None  # in place of min_confidence
    specialists: tuple[Name, ...] = ()  # default: all

    @model_validator(mode="after")
    def _one_of_two_weighs(self) -> Self:
        if (self.min_confidence is None) == (self.verifier is None):
            raise ValueError("give min_confidence or verifier, and not both")
        if self.confidence is not None and self.verifier is not None:
            raise ValueError("confidence: a verifier says yes or no")
        return self


class Routing(Section):
    """How a prompt finds its model."""

    router: FleetPath | None = None  # made by `deltafleet router fit`; default: by the examples
    encoder: str | None = None  # a sentence-transformers name or path; default: embedded MiniLM
    encoder_thread_count: int = Field(1, ge=1)
    encoder_budget_s: float = Field(0.02, gt=0)  # then the static step's decision stands
    encoder_cache_count: int = Field(10_000, ge=0)  # of what it made of texts; 1.5 KB each
    # A follow-up changes a chat's task where another leads by so much; default: routing/chats.py.
    chat_margin: float | None = Field(None, ge=0, le=2)
    fallback: str = BASE_MODEL  # for what is out of scope: any model of the fleet
    min_quality: float = Field(0, ge=0, le=1)  # where neither request nor caller says
    quality: FleetPath | None = None  # made by `deltafleet router fit-quality`
    feedback: Feedback | None = None  # default: none is taken
    escalation: Escalation | None = None  # default: the first answer is the caller's

    @model_validator(mode="after")
    def _a_quality_is_asked(self) -> Self:
        if self.quality and "min_quality" not in self.model_fields_set:
            raise ValueError(
                "quality: say min_quality too; the cheapest model that has it answers, so that 0 "
                "always takes the cheapest of all and 1 the best"
            )
        return self

    @model_validator(mode="after")
    def _one_encoder(self) -> Self:
        if self.router and self.encoder:
            raise ValueError("a router has the encoder that it was fitted with: leave encoder out")
        return self


class Caller(Section):
    """What holds for one caller where its request does not say."""

    min_quality: float | None = Field(None, ge=0, le=1)  # default: routing.min_quality
    max_cost_usd: Decimal | None = Field(None, ge=0)  # default: no limit
    requests_per_minute: int | None = Field(None, ge=1)  # default, here and below: no limit
    tokens_per_minute: int | None = Field(None, ge=1)  # of prompts and answers
    concurrent_streams: int | None = Field(None, ge=1)  # answers at once, unary ones too
    daily_budget_usd: Decimal | None = Field(None, ge=0, le=LARGEST_BUDGET_USD)  # of a UTC day
    monthly_budget_usd: Decimal | None = Field(None, ge=0, le=LARGEST_BUDGET_USD)


class Baseline(Section):
    """A closed API that we compare with.

    characters_per_token: its tokens are counted with it; default: as the price file says, with the
    API's own tokenizer where that is public.
    reasoning_multiplier: output tokens that it bills per visible one, where it thinks first.
    """

    price: str  # a key of the price file
    characters_per_token: Decimal | None = Field(None, gt=0, allow_inf_nan=False)  # the price's
    cached_input_share: Decimal = Field(Decimal(0), ge=0, le=1)  # of prompts' tokens
    batch: bool = False  # at the price of requests that may wait
    reasoning_multiplier: Decimal = Field(Decimal(1), ge=1, allow_inf_nan=False)


class MixtureSettings(Section):
    """Several specialists that answer at once, and who makes one answer of theirs."""

    description: str = "A mixture of specialists"
    # Or base, or closed APIs; their answers do not stream.
    specialists: tuple[Name, ...] = Field(min_length=2)
    aggregator: Name = VOTE  # vote: the answer that most give; else a specialist, or base
    prompt: str | None = None  # what it is asked, with {question} and {answers} once each
    quality: float = Field(1.0, ge=0, le=1)  # share of right answers to expect on its task
    examples: tuple[str, ...] = ()  # prompts that are for it; default: none, it is named
    examples_file: FleetPath | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(set(self.specialists)) < len(self.specialists):
            raise ValueError("specialists: one is there twice")
        if self.examples and self.examples_file:
            raise ValueError("give examples or examples_file, not both")
        if self.prompt is not None and self.aggregator == VOTE:
            raise ValueError("prompt: a vote asks nobody")
        parts = (QUESTION, ANSWERS)
        if self.prompt is not None and any(self.prompt.count(part) != 1 for part in parts):
            raise ValueError(f"prompt: {QUESTION} and {ANSWERS} once each")
        return self


class Ledger(Section):
    """Where finished requests are kept: a SQLite file, or a PostgreSQL that several gateways share.

    The database's URL, postgresql+psycopg://USER:PASSWORD@HOST/NAME, comes from
    DELTAFLEET_LEDGER_URL or url_file; url, in fleet.yaml itself, has no password.
    """

    path: FleetPath = Path("ledger.sqlite3")
    url: str | None = None
    url_file: FleetPath | None = None
    retry_s: float = Field(10, ge=0)  # that a row is tried again while the database is away
    keep_days: int | None = Field(None, ge=1)  # older requests become daily sums; default: never

    @model_validator(mode="after")
    def _url_is_plain(self) -> Self:
        if self.url is not None and self.url_file is not None:
            raise ValueError("url, url_file: only one of them")
        if self.url is not None:
            read = to_ledger_url(self.url, "url")
            if read.password is not None or "password" in read.query:
                raise ValueError(
                    "url: no password in fleet.yaml; DELTAFLEET_LEDGER_URL or url_file may have one"
                )
        return self


def to_ledger_url(text: str, place: str) -> sa.URL:
    """A PostgreSQL's URL. Raises ValueError, whose text has nothing of `text`."""
    try:
        url = sa.make_url(text.strip())
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError(
            f"{place}: not a URL"
        ) from None  # nothing of it is told: a password may be
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise ValueError(f"{place}: postgresql+psycopg://..., not {url.drivername}://")
    return url.set(drivername="postgresql+psycopg")


class LimitStore(Section):
    """Where callers' requests, tokens and money are counted, for all gateways together.

    The URL, redis://USER:PASSWORD@HOST:PORT/NUMBER, rediss:// or unix://, comes from
    DELTAFLEET_REDIS_URL or redis_url_file; redis_url, in fleet.yaml itself, has no password.
    Without any, each gateway counts alone.
    """

    redis_url: str | None = None
    redis_url_file: FleetPath | None = None
    prefix: str = Field("deltafleet", min_length=1)  # of its keys: another one for each fleet
    connect_timeout_s: float = Field(0.05, gt=0)
    operation_timeout_s: float = Field(0.1, gt=0)
    lease_s: float = Field(30, ge=1)  # a gateway that died holds its streams' places so long

    @model_validator(mode="after")
    def _url_is_plain(self) -> Self:
        if self.redis_url is not None and self.redis_url_file is not None:
            raise ValueError("redis_url, redis_url_file: only one of them")
        plain = self.redis_url and to_redis_url(self.redis_url, "redis_url")
        if plain and urlsplit(plain).password is not None:
            raise ValueError(
                "redis_url: no password in fleet.yaml; DELTAFLEET_REDIS_URL or redis_url_file "
                "may have one"
            )
        return self


def to_redis_url(text: str, place: str) -> str:
    """A Redis's URL. Raises ValueError, whose text has nothing of `text`."""
    try:
        url = urlsplit(text.strip())
        is_one = url.scheme in ("redis", "rediss", "unix") and url.port != 0
        # Other options would be settings of the client that nobody checks.
        is_one = is_one and parse_qs(url.query, strict_parsing=bool(url.query)).keys() <= {"db"}
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError(f"{place}: redis://..., rediss://... or unix://..., without other options")
    return text.strip()


class Prices(Section):
    """Where prices come from, and how old one may be before it is shown as stale."""

    file: FleetPath | None = None  # default: prices.yaml beside this file
    max_age_days: int = Field(90, ge=1)


class Settings(PoolSettings):
    """fleet.yaml."""

    server: Server = Server()
    routing: Routing = Routing()
    # By the name that was proven (identity), else by what the metadata deltafleet-caller says.
    callers: dict[Name, Caller] = {}
    baselines: dict[str, Baseline] = {}
    prices: Prices = Prices()
    closed_apis: dict[Name, ClosedApi] = {}
    mixtures: dict[Name, MixtureSettings] = {}
    ledger: Ledger = Ledger()
    identity: Identity | None = None  # default: anybody who reaches a door may call
    limits: LimitStore = LimitStore()

    @model_validator(mode="after")
    def _granted_models_exist(self) -> Self:
        grants = self.identity.certificates if self.identity else {}
        others = {*self.closed_apis, *self.mixtures}
        for name, one in grants.items():
            named = sorted((one.models or frozenset()) - others)
            self.check_names(f"identity.certificates.{name}.models", named)
        return self

    @model_validator(mode="after")
    def _certificates_are_asked_for(self) -> Self:
        are_shown = self.server.tls is not None and self.server.tls.client_ca is not None
        if self.identity and self.identity.certificates and not are_shown:
            raise ValueError("identity.certificates: nobody asks for one: server.tls.client_ca")
        return self

    @model_validator(mode="after")
    def _fallback_exists(self) -> Self:
        if self.routing.fallback not in {*self.closed_apis, *self.mixtures}:
            self.check_names("routing.fallback", [self.routing.fallback])
        for name in sorted({BASE_MODEL, *self.specialists} & set(self.closed_apis)):
            raise ValueError(f"closed_apis: the name {name!r} is taken")
        return self

    @model_validator(mode="after")
    def _mixtures_are_of_specialists(self) -> Self:
        taken = {BASE_MODEL, *self.specialists, *self.closed_apis}
        for name, mixture in self.mixtures.items():
            if name in taken:
                raise ValueError(f"mixtures: the name {name!r} is taken")
            ours = [one for one in mixture.specialists if one not in self.closed_apis]
            self.check_names(f"mixtures.{name}.specialists", ours)
            if mixture.aggregator != VOTE:
                self.check_names(f"mixtures.{name}.aggregator", [mixture.aggregator])
        if VOTE in self.specialists and self.mixtures:
            raise ValueError(f"mixtures: a specialist called {VOTE!r} could be meant")
        return self

    @model_validator(mode="after")
    def _escalation_can_work(self) -> Self:
        escalation = self.routing.escalation
        if escalation is None:
            return self
        if escalation.to != BASE_MODEL and escalation.to not in self.closed_apis:
            raise ValueError("routing.escalation.to: name one of closed_apis, or base")
        for name in escalation.specialists:
            if name not in self.specialists:
                raise ValueError(f"routing.escalation.specialists: none is called {name!r}")
        if escalation.verifier is not None:
            self.check_names("routing.escalation.verifier.model", [escalation.verifier.model])
        return self


def load_settings(path: Path, text: str | None = None) -> Settings:
    """Read fleet.yaml. text: see model_pool.settings_file.load. Raises SettingsError that says
    where and why.
    """
    return load(Settings, path, text=text)
