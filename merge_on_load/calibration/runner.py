"""The tuned model, run with weights of its own or with others in their place."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge_on_load.calibration.examples import Batch, Example

Weights = Mapping[str, torch.Tensor]
_BATCH_SIZE = 32
_ANSWER_TOKENS = 256


class Runner:
    """A model on the accelerator, where there is one, in float32.

    names: the tensors of its checkpoint that it has, by the same names.
    """

    def __init__(self, directory: Path) -> None:
        """directory: a checkpoint with config and tokenizer."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self.model: Any = loaded.to(self.device).eval().requires_grad_(False)
        self._on_answers = _OnAnswers(self.model)
        self._own = dict(self.model.state_dict())
        self.names = frozenset(self._own)

    def log_probabilities(self, batch: Batch, weights: Weights | None = None) -> torch.Tensor:
        """Of the next token at each place of an answer: float32[places, vocabulary].

        weights: in place of the model's own, by name; gradients pass through them.
        """
        given = {f"model.{name}": weight for name, weight in (weights or {}).items()}
        ids, is_answer = batch.ids.to(self.device), batch.is_answer.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits: torch.Tensor = functional_call(self._on_answers, given, (ids, is_answer))
        return logits.float().log_softmax(dim=-1)

    def own(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights that it has now."""
        return iter(self._own.items())

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Let these be the model's weights from now on."""
        with torch.no_grad():
            for name, tensor in tensors:
                if name in self._own:
                    self._own[name].copy_(tensor)

    @torch.inference_mode()
    def answers(
        self, prompts: Sequence[str], max_token_count: int = _ANSWER_TOKENS
    ) -> Iterator[str]:
        """Greedy ones, without special tokens."""
        for start in range(0, len(prompts), _BATCH_SIZE):
            inputs = self._prompt_inputs(prompts[start : start + _BATCH_SIZE]).to(self.device)
            tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_token_count)
            new = tokens[:, inputs["input_ids"].shape[1] :]
            yield from self.tokenizer.batch_decode(new, skip_special_tokens=True)

    def with_answers(self, examples: Sequence[Example]) -> list[Example]:
        """The same, the model's own answers where they have none."""
        open_prompts = [one.prompt for one in examples if one.answer is None]
        written = self.answers(open_prompts)
        return [
            one if one.answer is not None else Example(one.prompt, next(written))
            for one in examples
        ]

    def _prompt_inputs(self, prompts: Sequence[str]) -> Any:
        """Padded on the left, masked."""
        if getattr(self.tokenizer, "chat_template", None):
            return self.tokenizer.apply_chat_template(
                [[{"role": "user", "content": text}] for text in prompts],
                add_generation_prompt=True,
                padding=True,
                tokenizer_kwargs={"padding_side": "left"},
                return_tensors="pt",
                return_dict=True,
            )
        return self.tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")


class _OnAnswers(nn.Module):
    """ids, is_answer [batch, length] -> logits at the places before an answer's tokens.

    Padding stands on the right, so that causal attention needs no mask to ignore it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, is_answer: torch.Tensor) -> torch.Tensor:
        states = self.model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits: torch.Tensor = self.model.get_output_embeddings()(states[is_answer[:, 1:]])
        return logits
