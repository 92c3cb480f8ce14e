"""How well and how fast tasks are told, in tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.figures import Goal, table
from benchmarks.routing.contenders import OURS, REGRESSION, TUNED

Figures = Mapping[str, Any]
TRIALS = ("sources", "folds", "languages", "clinc")
_COLUMNS = {
    "accuracy": "accuracy",
    "in_scope_accuracy": "in scope",
    "out_of_scope_recall": "out-of-scope recall",
    "auroc": "AUROC",
    "ece": "ECE",
    "static_share": "static step decides",
}
_BAR_WIDTH = 40


def goals(figures: Figures, times: Figures) -> list[Goal]:
    """Of our router."""
    sources, languages, clinc = (figures[one][OURS] for one in ("sources", "languages", "clinc"))
    decisions = times["decisions"][OURS]
    p50_us, mean_ms = decisions["short"]["p50_s"] * 1e6, decisions["all"]["mean_s"] * 1e3
    both = f"{clinc['in_scope_accuracy']:.3f} and {clinc['out_of_scope_recall']:.3f}"
    is_both = clinc["in_scope_accuracy"] >= 0.95 and clinc["out_of_scope_recall"] >= 0.70
    return [
        _at_least("accuracy, sources left out: 0.82", sources["accuracy"], 0.82),
        _at_least("AUROC of out of scope, sources left out: 0.93", sources["auroc"], 0.93),
        _at_least("accuracy in other languages: 0.70", languages["accuracy"], 0.70),
        Goal("CLINC150: in scope 0.95 with out-of-scope recall 0.70", both, is_both),
        Goal("p50 of a decision, 20 tokens: 60 µs at most", f"{p50_us:.0f} µs", p50_us <= 60),
        Goal("mean of a decision, whole set: 1 ms at most", f"{mean_ms:.2f} ms", mean_ms <= 1),
    ]


def _at_least(what: str, value: float, least: float) -> Goal:
    return Goal(what, f"{value:.3f}", value >= least)


def sections(figures: Figures) -> dict[str, str]:
    """What the template has of each trial."""
    found = {f"{trial}_count": f"{figures[trial][OURS]['count']:,}" for trial in TRIALS}
    found |= {trial: _trial(figures[trial]) for trial in TRIALS}
    found |= {f"{trial}_kinds": _kinds(figures[trial]) for trial in ("sources", "languages")}
    return {
        **found,
        "reliability": _reliability(figures["sources"][OURS]["diagram"]),
        "tuned": _tuned(figures),
        "scope": _scope(figures),
    }


def diagrams(figures: Figures) -> dict[str, dict[str, Any]]:
    """What plots.draw_reliability draws."""
    titles = {"sources": "sources left out", "folds": "five folds"}
    return {
        title: {name: figures[trial][name]["diagram"] for name in (OURS, REGRESSION)}
        for trial, title in titles.items()
    }


def glance(figures: Figures, times: Figures) -> str:
    """A row of each router."""
    head = ["router", "accuracy: sources left out", "five folds", "other languages"]
    head += ["CLINC150: in scope", "out-of-scope recall", "p50, 20 tokens", "mean, whole set"]
    rows = []
    for name, told in times["decisions"].items():
        cells = [figures[trial][name]["accuracy"] for trial in ("sources", "folds", "languages")]
        clinc = figures["clinc"][name]
        cells += [clinc["in_scope_accuracy"], clinc["out_of_scope_recall"]]
        taken = (f"{told['short']['p50_s'] * 1e6:,.0f} µs", f"{told['all']['mean_s'] * 1e3:.2f} ms")
        rows.append((_emphasised(name), *(f"{one:.3f}" for one in cells), *taken))
    return table(head, rows)


def _trial(found: Figures) -> str:
    rows = [
        (_emphasised(name), *(f"{told[key]:.3f}" if key in told else "" for key in _COLUMNS))
        for name, told in found.items()
    ]
    return table(("router", *_COLUMNS.values()), rows)


def _emphasised(name: str) -> str:
    return f"**{name}**" if name == OURS else name


def _kinds(found: Figures) -> str:
    names = [name for name, told in found.items() if "kinds" in told]
    rows = []
    for kind, (count, _) in found[OURS]["kinds"].items():
        rows.append((kind, str(count), *(f"{found[n]['kinds'][kind][1]:.2f}" for n in names)))
    return table(("", "prompts", *names), rows)


def _reliability(bins: Any) -> str:
    """A bar of what is right, and a mark where the probability is."""
    lines = ["probability    prompts  mean   right"]
    for low, high, count, confidence, accuracy in bins:
        bar = list(("#" * round(accuracy * _BAR_WIDTH)).ljust(_BAR_WIDTH + 1))
        bar[round(confidence * _BAR_WIDTH)] = "|"
        figures = f"{low:.2f} to {high:.2f}  {count:7d}  {confidence:.2f}   {accuracy:.2f}  "
        lines.append((figures + "".join(bar)).rstrip())
    return "\n".join(["```", *lines, "```"])


def times(found: Figures) -> dict[str, str]:
    """What the template has of times."""
    decisions = found["decisions"]
    rows = []
    for name, told in decisions.items():
        cells = [f"{told[one]['p50_s'] * 1e6:,.0f} µs" for one in ("short", "all")]
        means = [f"{told[one]['mean_s'] * 1e3:.3f} ms" for one in ("short", "all")]
        rows.append((_emphasised(name), cells[0], means[0], cells[1], means[1]))
    head = ("router", "p50, 20 tokens", "mean, 20 tokens", "p50, whole set", "mean, whole set")
    batch = found["throughput"]
    told = ", ".join(
        f"{rate:,.0f} texts/s with {count} thread{'s' if count != '1' else ''}"
        for count, rate in batch["texts_per_s"].items()
    )
    return {
        "times": table(head, rows),
        "short_count": str(decisions[OURS]["short"]["count"]),
        "all_count": str(decisions[OURS]["all"]["count"]),
        "batch": f"{batch['count']} prompts of the whole set",
        "throughput": told,
    }


def _scope(figures: Figures) -> str:
    """Score -> AUROC in the trials that have enough out of scope."""
    trials = {"sources": "sources left out", "folds": "five folds", "clinc": "CLINC150"}
    told = [figures[trial][OURS]["scope_aurocs"] for trial in trials]
    rows = [(name, *(f"{one[name]:.3f}" for one in told)) for name in told[0]]
    return table(("score", *trials.values()), rows)


def _tuned(figures: Figures) -> str:
    """What semantic-router's best settings were, and how often."""
    seen: Counter[str] = Counter()
    for trial in TRIALS:
        for one in figures[trial][TUNED]["settings"]:
            route = "a route" if one["is_routed"] else "no route"
            told = f"`aggregation={one['aggregation']}, top_k={one['top_k']}`"
            seen[f"{told} and {route} for what is out of scope"] += 1
    rows = [(told, str(count)) for told, count in seen.most_common()]
    return table(("semantic-router's best settings", "times chosen"), rows)
