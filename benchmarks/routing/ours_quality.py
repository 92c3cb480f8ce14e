"""Our estimates of quality, as the others are made."""

from __future__ import annotations

import numpy as np

from benchmarks.routing.estimators import Estimates
from benchmarks.routing.ours import gloss
from gateway.routing.quality.fitting import fit_quality
from gateway.routing.quality.outcomes import Outcomes
from gateway.routing.task_router import Embedding, read_text


def estimates(learned: Outcomes, tested: Outcomes, embedding: Embedding) -> Estimates:
    """As `deltafleet router fit-quality` learns."""
    old, new = (
        embedding.encode([read_text(prompt, gloss()) for prompt in one.prompts])
        for one in (learned, tested)
    )
    found = fit_quality(learned, old).estimate_all(tested.prompts, new)
    return Estimates(np.asarray(found.quality, float), np.asarray(found.cost_usd, float))
