"""The workers and the models, as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deltafleet.v1 import fleet_pb2, routing_pb2, worker_pb2
from gateway.page.family import family
from gateway.page.history import WorkerSeconds
from gateway.price_list import plain
from gateway.pricing import to_usd
from gateway.worker_metrics import life_cost_nano_usd
from model_pool.member import Member

STATES = {
    worker_pb2.WORKER_STATE_STARTING: "starting",
    worker_pb2.WORKER_STATE_READY: "ready",
    worker_pb2.WORKER_STATE_DRAINING: "draining",
}


def usd(nano_usd: int) -> str:
    """Nano-dollars as an exact decimal number of USD."""
    return plain(to_usd(nano_usd))


def worker_json(
    member: Member, engine: str, utilisation: Callable[[str], float | None]
) -> dict[str, Any]:
    """One worker as it says itself; what it said last where it is out of reach.

    engine: what fleet.yaml says of it, for one that was never heard.
    """
    status, last = member.status, member.last_word
    loaded = status.loaded if status else ()
    return {
        "name": member.name,
        "state": STATES.get(status.state, "unknown") if status else "out of reach",
        "engine": last.engine if last else engine,
        "usd_per_hour": usd(last.price_nano_usd_per_hour) if last else None,
        "utilisation": utilisation(member.name) if status else None,
        "uptime_s": status.uptime_s if status else None,
        "running": status.running_count if status else 0,
        "waiting": status.queued_count if status else 0,
        "switches": status.switch_count if status else 0,
        "memory_budget_bytes": last.memory_budget_bytes if last else 0,
        "memory_used_bytes": sum(one.size_bytes for one in loaded),
        "loaded": sorted(one.model for one in loaded),
    }


def seconds_of(status: worker_pb2.WatchStatusResponse) -> WorkerSeconds:
    """A worker's time so far, for the history."""
    return WorkerSeconds(
        status.incarnation, status.uptime_s, status.busy_s, life_cost_nano_usd(status)
    )


def model_json(model: fleet_pb2.Model) -> dict[str, Any]:
    """One model. stored_bytes, full_bytes: 0 where nobody knows."""
    return {
        "name": model.name,
        "kind": routing_pb2.ModelKind.Name(model.kind).removeprefix("MODEL_KIND_").lower(),
        "description": model.description,
        "codec": model.codec,
        "stored_bytes": model.stored_size_bytes,
        "full_bytes": model.full_size_bytes,
        "quality": model.quality,
        "digest": model.weights_digest,
        "fault": model.fault,
        "live_on": [one.worker for one in model.placements],
        "running": sum(one.running_count for one in model.placements),
        "last_used_s": max(
            (
                one.last_used_time.ToNanoseconds() / 1e9
                for one in model.placements
                if one.HasField("last_used_time")
            ),
            default=None,
        ),
    }


def family_json(
    models: Sequence[fleet_pb2.Model], name_of: Mapping[str, str]
) -> list[dict[str, str]]:
    """What was made from what."""
    return [
        {"parent": one.parent, "child": one.child, "how": one.how}
        for one in family(models, name_of)
    ]
