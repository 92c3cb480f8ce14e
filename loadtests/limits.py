"""What a scenario says must hold, held against what was measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.scenario import Limits, OverloadLimits, Scenario

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit. allowed, measured: in words."""

    what: str
    allowed: str
    measured: str
    holds: bool

    def to_json(self) -> dict[str, object]:
        """As a mapping."""
        return asdict(self)


def check(scenario: Scenario, report: Figures) -> list[Verdict]:
    """Every limit of the scenario. report: with its figures, by caller and of all together."""
    found = _check_generator(scenario, report["generator"])
    found += _check_limits("all", scenario.limits, report["all"], _overload_reasons(scenario))
    for traffic in scenario.traffic:
        if traffic.limits != Limits():
            found += _check_limits(
                traffic.caller, traffic.limits, report["callers"][traffic.caller]
            )
    if scenario.overload:
        found += _check_overload(scenario.overload, report["saturation"])
    return found


def _overload_reasons(scenario: Scenario) -> tuple[str, ...]:
    return scenario.overload.reasons if scenario.overload else ()


def _check_generator(scenario: Scenario, generator: Figures) -> list[Verdict]:
    limit = scenario.generator_lag_p99_s
    lag = generator["lag_s"]["p99"]
    return [_at_most("generator's own lag, p99", limit, lag)]


def _check_limits(
    who: str, limits: Limits, figures: Figures, allowed: tuple[str, ...] = ()
) -> list[Verdict]:
    """allowed: reasons that are no fault here."""
    found = []
    sent = figures["sent"]
    found.append(Verdict(f"{who}: requests", "at least 1", str(sent), sent > 0))
    errors: Mapping[str, int] = figures["errors"]
    shares = {reason: 0.0 for reason in errors if reason not in allowed} | limits.errors
    for reason, highest in sorted(shares.items()):
        share = errors.get(reason, 0) / sent if sent else 0.0
        what = f"{who}: {reason}"
        found.append(Verdict(what, f"at most {highest:.2%}", f"{share:.2%}", share <= highest))
    if not shares and not allowed:
        found.append(Verdict(f"{who}: errors", "none", "none", True))
    for name, limit, value in (
        ("first token, p99", limits.first_token_p99_s, figures["first_token_s"]["p99"]),
        ("total, p99", limits.total_p99_s, figures["total_s"]["p99"]),
    ):
        if limit is not None:
            found.append(_at_most(f"{who}: {name}", limit, value))
    for name in ("route_accuracy", "answer_accuracy"):
        least = getattr(limits, name)
        if least is not None:
            found.append(_at_least(f"{who}: {name.replace('_', ' ')}", least, figures[name]))
    return found


def _check_overload(limits: OverloadLimits, figures: Figures) -> list[Verdict]:
    strange = sorted(set(figures["reasons"]) - set(limits.reasons))
    refused = sum(figures["reasons"].values())
    return [
        Verdict(
            *("ramp: the load that saturates", "found"),
            f"{figures['knee_rate']:.1f}/s" if figures["is_reached"] else "not reached",
            figures["is_reached"],
        ),
        _at_least("overload: part of the greatest goodput", limits.goodput, figures["kept"]),
        _at_most("overload: answers' total, p99", limits.total_p99_s, figures["total_s"]["p99"]),
        Verdict("overload: requests shed", "at least 1", str(refused), refused > 0),
        Verdict(
            *("overload: why", f"only {', '.join(limits.reasons)}"),
            ", ".join(strange or figures["reasons"]) or "nothing",
            not strange,
        ),
        *_check_classes(limits, figures),
    ]


def _check_classes(limits: OverloadLimits, figures: Figures) -> list[Verdict]:
    found = []
    classes: Mapping[str, Figures] = figures["classes"]
    for caller, factor in limits.first_token_factors.items():
        measured = classes.get(caller, {}).get("first_token_factor")
        what = f"overload: {caller}'s first token, p99, to that of the calm"
        text = "not measured" if measured is None else f"{measured:.2f} times"
        holds = measured is not None and measured <= factor
        found.append(Verdict(what, f"at most {factor:g} times", text, holds))
    for caller, share in limits.good_shares.items():
        measured = classes.get(caller, {}).get("good_share")
        found.append(_at_least(f"overload: {caller}'s good answers", share, measured))
    if limits.shed_p99_s is not None:
        what = "overload: the gateway's time to refuse, p99"
        found.append(_at_most(what, limits.shed_p99_s, figures["shed_s"]["p99"]))
    return found


def _at_most(what: str, limit: float, value: float | None) -> Verdict:
    measured = "not measured" if value is None else f"{value:.3f} s"
    return Verdict(what, f"at most {limit:g} s", measured, value is not None and value <= limit)


def _at_least(what: str, limit: float, value: float | None) -> Verdict:
    measured = "not measured" if value is None else f"{value:.1%}"
    return Verdict(what, f"at least {limit:.1%}", measured, value is not None and value >= limit)
