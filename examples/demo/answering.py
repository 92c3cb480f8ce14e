"""Greedy answers of a model to single prompts, many at a time."""

from collections.abc import Iterator, Sequence

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BATCH_SIZE = 100
MAX_ANSWER_TOKENS = 96


@torch.inference_mode()
def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> Iterator[str]:
    """Answer each prompt as a chat of one turn; padding stands on the left, masked."""
    for start in range(0, len(prompts), BATCH_SIZE):
        chats = [[{"role": "user", "content": text}] for text in prompts[start:][:BATCH_SIZE]]
        inputs = tokenizer.apply_chat_template(
            chats,
            add_generation_prompt=True,
            padding=True,
            tokenizer_kwargs={"padding_side": "left"},
            return_tensors="pt",
            return_dict=True,
        )
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
        yield from tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
