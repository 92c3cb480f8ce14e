"""The demo fleet with a closed API beside it."""

from __future__ import annotations

from pathlib import Path

import yaml

from support.fleet import DEMO

# Of one token of openai/gpt-5-mini.
INPUT_NANO_USD, CACHED_NANO_USD, OUTPUT_NANO_USD = 250, 25, 2000


def with_closed_api(
    directory: Path, url: str, *, sections: dict[str, object] | None = None, **settings: object
) -> Path:
    """The demo's fleet.yaml, falling back to a closed API, `mini`.

    sections: more of the file. settings: of the API.
    """
    document = yaml.safe_load(DEMO.read_text())
    document["base"]["path"] = str(DEMO.parent / "base")
    for name, specialist in document["specialists"].items():
        specialist["delta"] = str(DEMO.parent / f"{name}.delta")
        specialist["examples_file"] = str(DEMO.parent / "routing" / f"{name}.txt")
    document["routing"]["fallback"] = "mini"
    api = {"base_url": url, "model": "m", "price": "openai/gpt-5-mini", "daily_budget_usd": "1"}
    document["closed_apis"] = {"mini": api | {"max_retries": 0} | settings}
    for section, content in (sections or {}).items():
        document[section] = document.get(section, {}) | content
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    return path
