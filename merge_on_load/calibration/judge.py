"""What `pack` needs of a running model: distilled payloads before, measured quality after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merge_on_load.calibration.distilling import Distilling, Tuned, distill
from merge_on_load.calibration.examples import Batch, Example, Samples
from merge_on_load.calibration.measuring import distance, score
from merge_on_load.calibration.runner import Runner
from merge_on_load.codecs import Payload
from merge_on_load.progress import Progress

_HELD_SHARE, _MOST_HELD = 0.1, 256  # of the calibration's examples: distilling does not see them
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Examples:
    """calibration: prompts like those that the specialist gets, distilled from and measured on; the
    tuned model writes the answers that are missing. evaluation: prompts with wanted answers, which
    distilling never sees. distilling: None for none.
    """

    calibration: Sequence[Example] = ()
    evaluation: Sequence[Example] = ()
    distilling: Distilling | None = None


class Judge:
    """Two copies of one model: the tuned one, and one that gets the rebuilt tensors."""

    def __init__(self, model: Path, examples: Examples) -> None:
        """model: the tuned checkpoint's directory."""
        self._examples = examples
        self._tuned = Runner(model)
        self._rebuilt = Runner(model)
        answered = self._tuned.with_answers(examples.calibration)
        held_count = min(round(_HELD_SHARE * len(answered)), _MOST_HELD)
        held_count = max(1, held_count) if len(answered) > 1 else 0
        self._learned = answered[held_count:]
        self._held: list[Batch] = []
        if answered:
            held = Samples(self._tuned.tokenizer, answered[:held_count] or answered)
            self._held = list(held.batches(_BATCH_SIZE, 0))
        self._tuned_score: float | None = None

    @property
    def tuned_score(self) -> float:
        """The tuned model's own: share of the evaluation's answers that are the wanted ones."""
        if self._tuned_score is None:
            self._tuned_score = score(self._tuned, self._examples.evaluation)
        return self._tuned_score

    def distilled(
        self, tensors: Mapping[str, Tuned], progress: Progress | None = None
    ) -> dict[str, Payload]:
        """Payloads that have learned, by tensor; nothing where nothing is to learn."""
        plan = self._examples.distilling
        if plan is None or not self._learned:
            return {}
        samples = Samples(self._tuned.tokenizer, self._learned)
        return distill(self._tuned, tensors, samples, plan, progress)

    def divergence_without(self, name: str, base: torch.Tensor) -> float | None:
        """Of the tuned model with the base's tensor in place of its own, nats; None where it is not
        known.
        """
        if not self._held or name not in self._rebuilt.names:
            return None
        self._rebuilt.load(self._tuned.own())
        self._rebuilt.load([(name, base)])
        apart = distance(self._tuned, self._rebuilt, self._held)
        self._rebuilt.load(self._tuned.own())
        return apart.divergence

    def take(self, name: str, rebuilt: torch.Tensor) -> None:
        """One tensor of the rebuilt model."""
        self._rebuilt.load([(name, rebuilt)])

    def measured(self) -> dict[str, Any]:
        """Of the tensors taken since the beginning: divergence in nats and agreement on held-out
        calibration examples, score beside the tuned model's.
        """
        found: dict[str, Any] = {}
        if self._held:
            apart = distance(self._tuned, self._rebuilt, self._held)
            found |= {"divergence_nats": apart.divergence, "agreement": apart.agreement}
        if self._examples.evaluation:
            rebuilt = score(self._rebuilt, self._examples.evaluation)
            found |= {"tuned_score": self.tuned_score, "score": rebuilt}
        return found
