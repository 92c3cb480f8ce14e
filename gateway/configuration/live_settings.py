"""What of fleet.yaml a running gateway takes over, as data. The README shows the same table."""

from __future__ import annotations

from collections.abc import Iterable

from model_pool.setting_changes import needing_restart

# A name also stands for all that is below it; * for any one name.
LIVE = (
    *("specialists", "base.description", "base.quality"),
    *("routing", "callers", "baselines", "prices", "closed_apis", "mixtures"),
    *("server.max_message_bytes", "server.default_deadline_s"),
    *("server.default_output_token_count", "server.drain_limit_s"),
    *("pool.workers", "pool.worker_wait_s", "pool.preload"),
    *("pool.discovery.*.models", "pool.discovery.*.preload"),
)
# Exceptions: what was opened at the start, and is kept for as long as the gateway runs.
FIXED = ("routing.feedback.path", "routing.feedback.capacity", "routing.feedback.recent_count")
OF_WORKERS = ("base", "pool")


def restart_needed(places: Iterable[str]) -> str:
    """Which of these places change only by a restart, and of what; empty: none."""
    changed = list(places)
    fixed = set(changed) - set(needing_restart(changed, FIXED))
    refused = sorted(fixed | set(needing_restart(changed, LIVE)))
    faults = []
    for place in refused:
        is_workers = place.partition(".")[0] in OF_WORKERS
        who = "the gateway and its workers" if is_workers else "the gateway"
        faults.append(f"{place}: changed only by a restart of {who}")
    return "; ".join(faults)
