"""What stands before the stubs: a fleet.yaml of many specialists, LiteLLM's configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from gateway.identity.keys import make_key
from gateway.identity.keys_file import HEADER

DEMO = Path("examples/demo").resolve()
LIBRARY = Path("gateway/routing/library").resolve()
ROUTER = Path("build/benchmarks/gateway-router-20").resolve()
# Tasks that neither the demo nor the library has: verb, then what it is done to.
OTHERS = {
    "recipes": (
        ("Cook", "Bake", "Suggest a recipe for", "How long do I roast"),
        ("a lentil soup", "sourdough bread", "a vegan lasagne", "carrots with thyme"),
    ),
    "travel": (
        ("Plan three days in", "Which trains go to", "Find a quiet hotel in", "What to see in"),
        ("Lisbon", "Kyoto", "the Dolomites", "Marrakesh"),
    ),
    "gardening": (
        ("When do I prune", "How often do I water", "What eats the leaves of", "Can I sow"),
        ("roses", "tomatoes on a balcony", "an old apple tree", "lavender in clay soil"),
    ),
    "astronomy": (
        ("When can I see", "How far away is", "Which telescope shows", "What is known of"),
        ("the rings of Saturn", "the Andromeda galaxy", "the Perseids", "Betelgeuse"),
    ),
}
LITELLM_KEY = "sk-benchmark"
PROMPT_CHARACTER_COUNT = 200


def specialists() -> dict[str, list[str]]:
    """Name → its examples: the demo's tasks, and those of usual tasks that it has not."""
    found = {
        path.stem: path.read_text().splitlines()
        for path in sorted((DEMO / "routing").glob("*.txt"))
    }
    for path in sorted(LIBRARY.glob("*.txt")):
        texts = path.read_text().split("\n---\n")
        name = path.stem.replace("_", "-")
        if name != "out-of-scope" and name not in found:
            found[name] = [" ".join(text.split()) for text in texts]
    for name, (verbs, things) in OTHERS.items():
        found[name] = [f"{verb} {thing}" for verb in verbs for thing in things]
    return found


def make_router() -> None:
    """Fit the fleet's router once, as who runs a gateway does: a start need not."""
    if ROUTER.is_dir():
        return
    prompts = ROUTER.with_suffix(".jsonl")
    prompts.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"text": text, "task": name})
        for name, texts in specialists().items()
        for text in texts
    ]
    prompts.write_text("\n".join(lines))
    command = ["-m", "gateway", "router", "fit", str(prompts), "--out", str(ROUTER)]
    subprocess.run([sys.executable, *command, "--no-library"], check=True)


def write_key(path: Path) -> str:
    """A keys file beside a fleet.yaml, and the one key that it knows: with every kind of limit, all
    of them out of reach.
    """
    key = make_key()
    record = {
        "caller": "benchmark",
        "scopes": ["infer", "read-costs", "administer"],
        "hash": key.hash,
        "created": "2026-01-01T00:00:00Z",
        "requests_per_minute": 10**9,
        "tokens_per_minute": 10**12,
        "concurrent_streams": 10**6,
        "daily_budget_usd": 10**6,
        "monthly_budget_usd": 10**6,
    }
    keys = {"keys": {key.id: record}}
    path.with_suffix(".keys").write_text(HEADER + yaml.safe_dump(keys))
    return key.text


def write_fleet(
    path: Path, upstream: str, places: tuple[int, int] = (1024, 4096)
) -> dict[str, str]:
    """What a caller sends along with each call. upstream: host:port of the stub worker. places: how
    many requests run there, and how many wait.
    """
    key = write_key(path)
    document: dict[str, Any] = {
        "base": {"path": str(DEMO / "base")},
        "specialists": {
            name: {
                "description": f"Made for {name}",
                "delta": str(DEMO / "sql.delta"),
                "examples": examples,
            }
            for name, examples in specialists().items()
        },
        "pool": {
            "workers": [{"name": "stub", "address": upstream}],
            "max_running_count": places[0],
            "max_queued_count": places[1],
        },
        "routing": {"router": str(ROUTER)},
        "identity": {"keys_file": str(path.with_suffix(".keys"))},
        "server": {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
        "baselines": {
            "gpt-5-mini": {"price": "openai/gpt-5-mini"},
            "claude-haiku-4-5": {"price": "anthropic/claude-haiku-4-5"},
        },
        "ledger": {"path": str(path.with_suffix(".sqlite3"))},
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return {"authorization": f"Bearer {key}"}


def write_litellm(path: Path, upstream: str) -> None:
    """upstream: host:port of the OpenAI-compatible stub."""
    parameters = {"model": "openai/stub", "api_base": f"http://{upstream}/v1", "api_key": "none"}
    document = {
        "model_list": [{"model_name": "stub", "litellm_params": parameters}],
        "litellm_settings": {"set_verbose": False, "telemetry": False},
        "general_settings": {"master_key": LITELLM_KEY},
    }
    path.write_text(yaml.safe_dump(document))


def candidate_prompts() -> list[str]:
    """Of each specialist's examples, as many as fill the length of all prompts."""
    found = []
    for examples in specialists().values():
        for start in range(0, min(len(examples), 40), 8):
            text = " ".join(examples[start : start + 8])
            found.append(text[:PROMPT_CHARACTER_COUNT])
    return [text for text in found if len(text) == PROMPT_CHARACTER_COUNT]
