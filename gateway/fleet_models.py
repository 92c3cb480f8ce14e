"""fleet.yaml → what the planner, the answering and the page work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.caller import Limits
from gateway.confidence import Curve
from gateway.escalation import Escalation
from gateway.identity.models import AllowedModels
from gateway.mixture import DEFAULT_PROMPT, VOTE, Mixture
from gateway.pricing import to_nano_usd
from gateway.route_planner import Habits
from gateway.router import Constraints, ModelKind, Target
from gateway.routing.chats import Hysteresis
from gateway.settings import Settings, VerifierSettings
from gateway.verifier import DEFAULT_PROMPT as VERIFIER_PROMPT
from gateway.verifier import Verifier
from model_pool.settings import BASE_MODEL


def make_targets(settings: Settings) -> dict[str, Target]:
    """Every model that a request can go to, by name."""
    targets = {BASE_MODEL: Target(BASE_MODEL, ModelKind.BASE, settings.base.quality)}
    for name, specialist in settings.specialists.items():
        targets[name] = Target(name, ModelKind.SPECIALIST, specialist.quality)
    for name, mixture in settings.mixtures.items():
        targets[name] = Target(name, ModelKind.MIXTURE, mixture.quality)
    for name, closed in settings.closed_apis.items():
        targets[name] = Target(name, ModelKind.CLOSED_API, closed.quality)
    return targets


def _caller_defaults(settings: Settings) -> dict[str, Constraints]:
    return {
        name: Constraints(
            one.min_quality, None if one.max_cost_usd is None else to_nano_usd(one.max_cost_usd)
        )
        for name, one in settings.callers.items()
    }


def named_limits(settings: Settings) -> dict[str, Limits]:
    """What callers may use, by name."""
    return {
        name: Limits(
            one.requests_per_minute,
            one.tokens_per_minute,
            one.concurrent_streams,
            None if one.daily_budget_usd is None else to_nano_usd(one.daily_budget_usd),
            None if one.monthly_budget_usd is None else to_nano_usd(one.monthly_budget_usd),
        )
        for name, one in settings.callers.items()
    }


def descriptions(settings: Settings) -> dict[str, str]:
    """What each model is for, by name."""
    descriptions = {name: one.description for name, one in settings.specialists.items()}
    descriptions[BASE_MODEL] = settings.base.description
    descriptions |= {name: one.description for name, one in settings.mixtures.items()}
    for name, closed in settings.closed_apis.items():
        descriptions[name] = f"{closed.model}, a closed API"
    return descriptions


def make_habits(settings: Settings) -> Habits:
    """How requests are planned that do not say."""
    routing = settings.routing
    hysteresis = Hysteresis()
    if routing.chat_margin is not None:
        hysteresis = replace(hysteresis, short_margin=routing.chat_margin)
    exploration = routing.feedback.exploration if routing.feedback else 0.0
    is_cascade = routing.escalation is not None  # which asks whether the other one would do
    return Habits(_caller_defaults(settings), hysteresis, exploration, weighs_all=is_cascade)


def weighed_models(settings: Settings) -> tuple[str, ...]:
    """The specialists that a cascade asks first; none where fleet.yaml has no cascade."""
    asked = settings.routing.escalation
    return (asked.specialists or tuple(settings.specialists)) if asked else ()


def make_escalation(
    settings: Settings, targets: Mapping[str, Target], curve: Curve
) -> Escalation | None:
    """None where fleet.yaml has none. curve: how sure answers are, of every specialist."""
    asked = settings.routing.escalation
    if asked is None:
        return None
    return Escalation(
        targets[asked.to],
        asked.min_confidence or 0.0,
        dict.fromkeys(weighed_models(settings), curve),
        make_verifier(asked.verifier) if asked.verifier else None,
    )


def make_verifier(asked: VerifierSettings) -> Verifier:
    """As fleet.yaml has it."""
    return Verifier(asked.model, asked.prompt or VERIFIER_PROMPT, asked.accepts)


def make_allowed_models(settings: Settings) -> AllowedModels:
    """Which models work inside others."""
    aggregators = {name: {one.aggregator} - {VOTE} for name, one in settings.mixtures.items()}
    return AllowedModels(
        {name: {*one.specialists, *aggregators[name]} for name, one in settings.mixtures.items()}
    )


def make_mixtures(settings: Settings) -> dict[str, Mixture]:
    """By name."""
    return {
        name: Mixture(
            one.specialists,
            None if one.aggregator == VOTE else one.aggregator,
            one.prompt or DEFAULT_PROMPT,
        )
        for name, one in settings.mixtures.items()
    }


def engines(settings: Settings) -> dict[str, str]:
    """What each worker runs on, as fleet.yaml says."""
    pool = settings.pool
    return {one.name: "openai" if one.openai else pool.engine for one in pool.workers}


def model_names_by_file(settings: Settings) -> dict[str, str]:
    """The fleet's models by the names of the files that they come from, as lineages tell them."""
    names = {one.source.name: name for name, one in settings.specialists.items()}
    return names | {settings.base.path.name: BASE_MODEL}
