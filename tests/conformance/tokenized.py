"""Tiny models that have a tokenizer."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from support.many_architectures import write

END = "</s>"


def bpe(*words: str, special: tuple[str, ...] = (), added: tuple[str, ...] = ()) -> Tokenizer:
    """Byte-level, a token for each of these words: merged letter by letter from the left."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = dict.fromkeys([*alphabet, *("".join(one) for one in merges)])
    tokenizer = Tokenizer(
        models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=list(merges))
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*special, END])
    tokenizer.add_tokens(list(added))
    return tokenizer


def save(
    path: Path, architecture: str, tokenizer: Tokenizer, seed: int, padding: int = 0, **config: Any
) -> None:
    """A model of random weights. padding: rows of its embeddings that no token has."""
    ids = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": tokenizer.token_to_id(END)}
    size = tokenizer.get_vocab_size() + padding
    write(path, architecture, seed, vocab_size=size, **(ids | config))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END
    ).save_pretrained(path)


def read_tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path / "tokenizer.json"))
