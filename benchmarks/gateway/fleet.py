"""What stands before the stubs: a fleet.yaml of many specialists, LiteLLM's configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

DEMO = Path("examples/demo").resolve()
LIBRARY = Path("gateway/routing/library").resolve()
ROUTER = Path("build/benchmarks/gateway-router").resolve()
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


def write_fleet(path: Path, upstream: str) -> None:
    """upstream: host:port of the stub worker."""
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
            "max_running_count": 1024,
            "max_queued_count": 4096,
        },
        "routing": {"router": str(ROUTER)},
        "server": {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
        "baselines": {
            "gpt-5-mini": {"price": "openai/gpt-5-mini"},
            "claude-haiku-4-5": {"price": "anthropic/claude-haiku-4-5"},
        },
        "ledger": {"path": str(path.with_suffix(".sqlite3"))},
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))


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
