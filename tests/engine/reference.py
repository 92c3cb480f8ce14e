"""What transformers itself makes of a prompt, by plain passes over all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from engine.tiny_models import read_reference
from transformers import AutoTokenizer


class Reference:
    """A checkpoint as transformers reads it."""

    def __init__(self, path: Path) -> None:
        self._model: Any = read_reference(path).float()  # as the engines under test compute
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)

    @torch.inference_mode()
    def greedy_ids(self, prompt: str, token_count: int) -> list[int]:
        """Its answer, its end included where that comes within so many tokens."""
        prompt_ids = self.prompt_ids(prompt)
        out = self._model.generate(
            torch.tensor([prompt_ids]), do_sample=False, max_new_tokens=token_count
        )
        answer: list[int] = out[0, len(prompt_ids) :].tolist()
        return answer

    @torch.inference_mode()
    def mean_log_probability(self, prompt: str, answer_ids: list[int]) -> float:
        """Of an answer's tokens, at temperature 1."""
        prompt_ids = self.prompt_ids(prompt)
        rows = self._model(torch.tensor([[*prompt_ids, *answer_ids]])).logits[0].log_softmax(-1)
        first = len(prompt_ids) - 1
        told = [rows[first + i, token].item() for i, token in enumerate(answer_ids)]
        return sum(told) / len(told)

    def text(self, token_ids: list[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def prompt_ids(self, prompt: str) -> list[int]:
        turns = [{"role": "user", "content": prompt}]
        found: list[int] = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
        return found
