"""The cascade on vLLM: the worker tells the gateway how sure an answer is."""

from __future__ import annotations

import math
import random
from pathlib import Path

from deltafleet.v1 import routing_pb2
from examples.demo.tasks import TASKS
from support.closed_fleet import with_closed_api
from support.fleet import running_fleet
from support.openai_server import TEXTS, openai_server

BAR = 0.9
VLLM = {
    "dtype": "float32",
    "kv_cache_memory_bytes": 256 << 20,
    "block_size": 32,
    "enforce_eager": True,
}
PROMPT = TASKS["arithmetic"].generate(random.Random(4711)).prompt


async def test_a_sure_answer_is_the_callers_and_an_unsure_one_gives_way(tmp_path: Path) -> None:
    escalation = {"to": "mini", "min_confidence": BAR, "specialists": ["arithmetic"]}
    sections = {
        "routing": {"escalation": escalation},
        "pool": {"engine": "vllm", "vllm": VLLM},
    }
    async with openai_server() as server:
        path = with_closed_api(tmp_path, server.url, sections=sections)
        async with running_fleet(tmp_path, path) as fleet:
            sure = await fleet.stream(PROMPT)
            unsure = await fleet.stream(PROMPT, temperature=2, seed=5)

    assert sure.decision.model == "arithmetic"
    assert BAR <= math.exp(sure.summary.mean_logprob) <= 1
    assert unsure.decision.reason == routing_pb2.ROUTE_REASON_ESCALATED
    assert 0 < unsure.decision.contributions[0].confidence < BAR
    assert unsure.texts == list(TEXTS)
    assert len(server.calls) == 1
