"""Our estimates of quality, as the others are made."""

from __future__ import annotations

import numpy as np

from benchmarks.routing.estimators import Estimates
from benchmarks.routing.ours import gloss
from gateway.routing.quality.fitting import fit_quality
from gateway.routing.quality.outcomes import Outcomes
from gateway.routing.reading import read_text
from gateway.routing.task_router import FullEncoder


def estimates(learned: Outcomes, tested: Outcomes, embedding: FullEncoder) -> Estimates:
    """As `deltafleet router fit-quality` learns."""
    old, new = (
        embedding.encode([read_text(prompt, gloss())[0] for prompt in one.prompts])
        for one in (learned, tested)
    )
    found = fit_quality(learned, old).estimate_all(tested.prompts, new)
    return Estimates(np.asarray(found.quality, float), np.asarray(found.cost_usd, float))
