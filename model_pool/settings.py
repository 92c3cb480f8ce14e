"""fleet.yaml as frozen models: the sections that a worker needs too.

One file describes the fleet; a worker reads `base`, `specialists` and `pool`, the gateway reads all
of it (`gateway/settings.py`). `settings_file.py` reads it. An environment variable overrides one
value: DELTAFLEET_POOL__MEMORY_BUDGET_MIB=512 sets `pool.memory_budget_mib`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from model_pool.admission import Thresholds
from model_pool.vllm.options import VllmOptions

# A worker ignores these: they are the gateway's. A test holds the two lists together.
GATEWAY_SECTIONS = (
    *("server", "routing", "callers", "baselines", "prices", "closed_apis", "mixtures", "ledger"),
    "identity",
    "limits",
)
BASE_MODEL = "base"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)]
# No user and password in it: secrets come from the environment.
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/@]+(/\S*)?$")]


class SettingsError(Exception):
    """fleet.yaml, or a DELTAFLEET_ variable, is wrong; the text says where and why."""


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    directory = (info.context or {}).get("directory", Path())
    return Path(os.path.normpath(directory / path.expanduser()))


FleetPath = Annotated[Path, AfterValidator(_beside_the_file)]


class Section(BaseModel):
    """A part of fleet.yaml: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Base(Section):
    """The checkpoint that every delta belongs to."""

    path: FleetPath
    description: str = "The base model"
    quality: float = Field(0.0, ge=0, le=1)  # share of right answers to expect on any task


class Specialist(Section):
    """A model that is stored as a delta or a merge recipe, and the prompts that it is for."""

    description: str
    delta: FleetPath | None = None  # a delta's directory, or a LoRA adapter's
    recipe: FleetPath | None = None  # mergekit's YAML; what it makes has the base's architecture
    quality: float = Field(1.0, ge=0, le=1)  # share of right answers to expect on its task
    examples: tuple[str, ...] = ()
    examples_file: FleetPath | None = None  # one prompt per line

    @property
    def source(self) -> Path:
        """What it is stored as: its delta or its recipe."""
        source = self.delta or self.recipe
        assert source is not None, "validated"
        return source

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if bool(self.delta) == bool(self.recipe):
            raise ValueError("give exactly one of delta and recipe")
        return self

    @model_validator(mode="after")
    def _has_examples(self) -> Self:
        if bool(self.examples) == bool(self.examples_file):
            raise ValueError("give exactly one of examples and examples_file")
        return self


class OpenAIServer(Section):
    """A server that somebody runs already: OpenAI-compatible HTTP, such as `vllm serve`.

    Its key, where it asks for one, comes from DELTAFLEET_MEMBER_KEY_NAME: the worker's name in
    upper case, - as _.
    """

    url: Url  # as clients take it, usually ending in /v1
    models: dict[Name, str] = Field(min_length=1)  # our name → the server's own


class Hardware(Section):
    """What a worker runs on, and what that costs, busy or idle."""

    accelerator: str = "cpu"  # a name for people: a10g, h100, ...
    usd_per_hour: Decimal = Field(Decimal(0), ge=0)  # of all of it
    share: Decimal = Field(Decimal(1), gt=0, le=1)  # of it that the worker has, beside others

    @property
    def nano_usd_per_hour(self) -> int:
        """The worker's price, in nano-dollars."""
        price = self.usd_per_hour * self.share * 10**9
        return int(price.to_integral_value(ROUND_HALF_EVEN))


class Worker(Section):
    """One member of the pool: an engine of ours, or a server behind HTTP.

    With neither address nor openai the gateway starts it as a subprocess.
    """

    name: Name
    address: str | None = None  # host:port or unix:PATH
    openai: OpenAIServer | None = None
    hardware: Hardware | None = None  # default: the pool's

    @property
    def is_local(self) -> bool:
        """Whether the gateway starts it."""
        return self.address is None and self.openai is None

    @model_validator(mode="after")
    def _is_in_one_place(self) -> Self:
        if self.address is not None and self.openai is not None:
            raise ValueError("give address or openai, not both")
        return self


class WorkerGroup(Section):
    """Workers that come and go, alike: whoever answers at a name of DNS, as a headless Service has.

    A worker says that it belongs to one with --group; it serves and counts the same models.
    """

    dns: Annotated[str, StringConstraints(pattern=r"^[^\s:/]+:[0-9]{1,5}$")]  # host:port
    interval_s: float = Field(5, gt=0)  # between two questions to DNS
    hardware: Hardware | None = None  # of each of them; default: the pool's
    models: tuple[Name, ...] = ()  # that they serve, also base; default: all of the fleet
    preload: tuple[Name, ...] | None = None  # default: the pool's, as far as they serve them

    @property
    def serves(self) -> frozenset[str] | None:
        """The models that its workers run, None for all of the fleet."""
        return frozenset(self.models) or None


class Switching(Section):
    """Turns on an engine that has one set of live weights (vllm); see `switching.py`."""

    max_wait_s: float = Field(10, ge=0)  # a waiting request's weights are to be live within this
    amortisation: float = Field(10, gt=0)  # a turn lasts at least so many times its switch
    drain_s: float = Field(5, ge=0)  # what runs may go on so long rather than be computed again


class Breaker(Section):
    """When a worker whose requests fail is left alone for a while; see `breaker.py`."""

    failures: int = Field(5, ge=1)  # so many in a row
    pause_s: float = Field(1, gt=0)  # the first; twice as long each time that it was in vain
    longest_pause_s: float = Field(30, gt=0)

    @model_validator(mode="after")
    def _pauses_grow(self) -> Self:
        if self.longest_pause_s < self.pause_s:
            raise ValueError("longest_pause_s is shorter than pause_s")
        return self


class Affinity(Section):
    """Which requests prefer the same worker, for what its cache has; see `affinity.py`."""

    prefix_character_count: int = Field(256, ge=0)  # the same beginning; 0: only sessions count
    load_factor: float = Field(1.25, ge=1)  # a preferred worker has at most so many times the mean


class Hedging(Section):
    """When a slow unary request is given to a second worker, too; see `hedging.py`."""

    after_s: float = Field(gt=0)  # without a first word
    most_share: float = Field(0.05, gt=0, le=1)  # of the requests that may be


class Choice(Section):
    """Which worker a request goes to."""

    breaker: Breaker = Breaker()
    affinity: Affinity = Affinity()
    hedging: Hedging | None = None  # default: no request runs twice


class Admission(Section):
    """Who comes in where places are scarce; see `admission.py`. Alone, with 8, a caller gets eight
    of nine places.
    """

    interactive: float = Field(16, gt=0)  # a caller's requests, at most, for each free place
    standard: float = Field(8, gt=0)  # these and interactive ones
    batch: float = Field(2, gt=0)  # all of them
    specialist: float = Field(32, gt=0)  # the same for a specialist, of all callers

    @property
    def thresholds(self) -> Thresholds:
        """As they are applied."""
        return Thresholds((self.interactive, self.standard, self.batch), self.specialist)


class PoolTls(Section):
    """Mutual TLS between gateways and workers that are reached over a network.

    Both ends read this section, and only take certificates of `ca`: let it sign nothing else. The
    files are PEM, and read again when they change.
    """

    ca: FleetPath
    certificate: FleetPath  # for server and client authentication where both ends have the same
    key: FleetPath
    server_name: str | None = None  # in workers' certificates; default: the worker's address


class Pool(Choice):
    """How the workers run, and are chosen."""

    engine: Literal["transformers", "vllm"] = "transformers"
    vllm: VllmOptions | None = None  # passed to vLLM
    switching: Switching = Switching()
    workers: tuple[Worker, ...] = ()  # default: one that is started here, unless some are found
    discovery: dict[Name, WorkerGroup] = {}  # found by DNS, beside those above
    hardware: Hardware = Hardware()  # of each worker that names none
    memory_budget_mib: int = Field(1024, ge=1)  # for weights, per worker
    max_running_count: int = Field(32, ge=1)  # requests in one worker's batch
    max_queued_count: int = Field(256, ge=0)  # requests that wait, per worker
    context_token_count: int | None = Field(None, ge=2)  # default: the base's own
    thread_count: int | None = Field(None, ge=1)  # of the engine; default: torch's own
    admission: Admission = Admission()  # shares of the places
    worker_wait_s: float = Field(30, ge=0)  # how long a request waits for a worker to be up
    preload: tuple[Name, ...] = ()  # built at start, in this order
    drain_limit_s: float = Field(30, ge=0)  # what a stopping worker runs may take so long to end
    tls: PoolTls | None = None  # default: plain text, for a private network
    # What left fleet.yaml is run for so long, for gateways that have not read that yet.
    linger_s: float = Field(120, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _has_a_worker(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("discovery"):
            if "workers" not in given:
                return {**given, "workers": [{"name": "worker-0"}]}
            if not given["workers"]:
                raise ValueError("workers: name one, or say where they are found (discovery)")
        return given

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [worker.name for worker in self.workers]
        if len(set(names)) < len(names):
            raise ValueError("two workers have the same name")
        return self

    def hardware_of(self, worker: str) -> Hardware:
        """What the worker of this name runs on."""
        own = {one.name: one.hardware for one in self.workers}
        return own.get(worker) or self.hardware

    @model_validator(mode="after")
    def _vllm_is_asked_for(self) -> Self:
        if self.vllm is not None and self.engine != "vllm":
            raise ValueError(f"vllm: options of another engine than {self.engine!r}")
        return self


class TracingSettings(Section):
    """Where spans go: an OpenTelemetry collector that takes OTLP over gRPC.

    Headers that it asks for come from DELTAFLEET_TRACING_HEADERS, as name=value,name=value.
    """

    endpoint: Url  # http: without TLS
    sample_ratio: float = Field(1.0, ge=0, le=1)  # of traces that begin here; others go on as begun


class PoolSettings(Section):
    """What a worker reads of fleet.yaml."""

    base: Base
    specialists: dict[Name, Specialist] = Field(min_length=1)
    pool: Pool = Pool()
    tracing: TracingSettings | None = None  # default: no spans are made

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        if BASE_MODEL in self.specialists:
            raise ValueError(f"specialists: the name {BASE_MODEL!r} is the base model's")
        self.check_names("pool.preload", self.pool.preload)
        for worker in self.pool.workers:
            if worker.openai:
                self.check_names(f"pool.workers.{worker.name}.openai.models", worker.openai.models)
        for name, group in self.pool.discovery.items():
            self.check_names(f"pool.discovery.{name}.models", group.models)
            self.check_names(f"pool.discovery.{name}.preload", group.preload or ())
        return self

    @model_validator(mode="after")
    def _every_model_has_a_worker(self) -> Self:
        served: set[str] = set()
        for worker in self.pool.workers:
            served |= set(worker.openai.models) if worker.openai else self.models
        for group in self.pool.discovery.values():
            served |= group.serves or self.models
        if missing := self.models - served:
            raise ValueError(f"pool.workers: none of them serves {', '.join(sorted(missing))}")
        return self

    @property
    def models(self) -> frozenset[str]:
        """The base and the specialists."""
        return frozenset({BASE_MODEL, *self.specialists})

    def of_group(self, name: str) -> Self:
        """What a worker of this group goes by: its models, hardware and preloads alone.

        Raises SettingsError where no group has the name.
        """
        group = self.pool.discovery.get(name)
        if group is None:
            raise SettingsError(f"pool.discovery: no group is called {name!r}")
        served = group.serves or self.models
        preload = self.pool.preload if group.preload is None else group.preload
        pool = {
            "hardware": group.hardware or self.pool.hardware,
            "preload": tuple(model for model in preload if model in served),
        }
        listed = {model: one for model, one in self.specialists.items() if model in served}
        return self.model_copy(
            update={"specialists": listed, "pool": self.pool.model_copy(update=pool)}
        )

    def by_recency(self) -> list[str]:
        """The specialists, those of pool.preload first, as if they had been used last."""
        preloaded = [name for name in self.pool.preload if name in self.specialists]
        return list(dict.fromkeys([*preloaded, *self.specialists]))

    def check_names(self, where: str, names: Iterable[str]) -> None:
        """Raise ValueError for a name that is neither the base nor a specialist."""
        for name in names:
            if name != BASE_MODEL and name not in self.specialists:
                raise ValueError(f"{where}: no model is called {name!r}")
