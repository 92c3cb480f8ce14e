"""The data that routing is measured on. They are not part of this project; see `Source`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.routing.labelled import OUT_OF_SCOPE
from gateway.routing.quality.outcomes import Outcomes

DEFAULT = Path("../shared/data/routing")
LANGUAGES = Path("benchmarks/routing_languages.jsonl")
PAIR = ("GPT-4", "Mixtral 8x7B")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, what is in it, and the public repositories it was drawn from."""

    file: str
    what: str
    origin: str


SOURCES = (
    Source(
        "tasks_dev.jsonl",
        "prompts of 11 tasks and out of scope, with the data set each came from",
        "openai/grade-school-math, google-deepmind/AQuA, arkilpatel/SVAMP, microsoft/ToRA, "
        "sahil280114/codealpaca, teknium1/GPTeacher, taoyds/spider, jkkummerfeld/text2sql-data, "
        "ShishirPatil/gorilla, PolyAI-LDN/task-specific-datasets, P3's prompts, multi30k/dataset, "
        "X-PLUG/WritingBench, THUDM/LongWriter, f/awesome-chatgpt-prompts, abachaa/MedQuAD, "
        "pubmedqa/pubmedqa, Kent0n-Li/ChatDoctor, HazyResearch/legalbench, NExTplusplus/TAT-QA, "
        "yuanbit/FinBERT-QA, awslabs/multi-domain-goal-oriented-dialogues-dataset, "
        "jianguoz/Few-Shot-Intent-Detection, google-research-datasets/natural-questions, "
        "suzgunmirac/BIG-Bench-Hard, tatsu-lab/alpaca_eval",
    ),
    Source("routing_languages.jsonl", "the same tasks in other languages", "this project"),
    Source("clinc150_dev.json", "CLINC150: 150 intents, and out of scope", "clinc/oos-eval"),
    Source(
        "routellm_mmlu_dev.csv",
        "what GPT-4 and Mixtral 8x7B got right of MMLU; marked as contaminated: left out",
        "lm-sys/RouteLLM",
    ),
    Source("routellm_gsm8k_dev.csv", "the same of GSM8K", "lm-sys/RouteLLM"),
    Source(
        "fleet9_dev.jsonl", "scores of nine open models, 7 to 70 billion", "ulab-uiuc/LLMRouter"
    ),
    Source("fleet7_dev.jsonl", "scores of seven models of 7 billion", "shuhao02/RouterDC"),
    Source(
        "routerbench_dev.jsonl",
        "scores and costs of eleven models, open and closed",
        "withmartian/routerbench",
    ),
)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Labelled prompts. sources: where each is from; empty where nobody knows."""

    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, places: NDArray[np.int64]) -> Prompts:
        """Those in these places."""
        texts, tasks = (tuple(one[i] for i in places) for one in (self.texts, self.tasks))
        sources = tuple(self.sources[i] for i in places) if self.sources else ()
        return Prompts(texts, tasks, sources)


def read_prompts(path: Path) -> Prompts:
    """Lines of `text`, `task` and perhaps `source` or `language`."""
    lines = _json_lines(path)
    sources = [one.get("source", one.get("language", "")) for one in lines]
    texts, tasks = (tuple(one[key] for one in lines) for key in ("text", "task"))
    return Prompts(texts, tasks, tuple(sources))


def read_clinc(path: Path) -> tuple[Prompts, Prompts]:
    """What is learned from, and what is measured on; both with what is out of scope."""
    told = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for part in ("train", "val"):
        texts = [text for text, _ in told[part] + told[f"oos_{part}"]]
        tasks = [task for _, task in told[part]] + [OUT_OF_SCOPE] * len(told[f"oos_{part}"])
        found.append(Prompts(tuple(texts), tuple(tasks)))
    return found[0], found[1]


def read_pair(path: Path) -> Outcomes:
    """RouteLLM's rows: the strong model first, then the weak one. No costs."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["contaminated"] == "0"]
    scores = np.array([[float(row["strong_correct"]), float(row["weak_correct"])] for row in rows])
    prompts = tuple(row["prompt"] for row in rows)
    return Outcomes(prompts, PAIR, scores, np.full_like(scores, np.nan))


def read_fleet(path: Path) -> Outcomes:
    """Lines of `prompt`, `scores` and perhaps `cost_usd`, both by model.

    A score that is missing, null or NaN (which JSON has not, but these files have) is unknown.
    """
    lines = _json_lines(path)
    models = tuple(sorted({name for line in lines for name in line["scores"]}))
    scores = _matrix([line["scores"] for line in lines], models)
    costs = _matrix([line.get("cost_usd", {}) for line in lines], models)
    return Outcomes(tuple(line["prompt"] for line in lines), models, scores, costs)


def read_kinds(path: Path) -> dict[str, str]:
    """Prompt -> which data set it is from, or for MMLU which subject; GSM8K is of one kind."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return {row["prompt"]: row.get("subject", "") for row in csv.DictReader(file)}
    return {line["prompt"]: line["source"] for line in _json_lines(path)}


def _matrix(
    rows: Sequence[Mapping[str, float | None]], models: Sequence[str]
) -> NDArray[np.float64]:
    return np.array([[row.get(name) for name in models] for row in rows], np.float64)  # None: NaN


def _json_lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]
