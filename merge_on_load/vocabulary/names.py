"""Which tensors have a row for each token."""

import re
from typing import TYPE_CHECKING

from merge_on_load.errors import MissingTensor
from merge_on_load.recipes.layers import embedding_of, is_head

if TYPE_CHECKING:
    from merge_on_load.recipes.sources import Source

# What `layers` does not know: embeddings that an encoder and a decoder share, heads of encoders
# and of ChatGLM.
_SHARED = re.compile(r"(^|\.)shared\.weight$")
_OTHER_HEAD = re.compile(
    r"(^|\.)(vocab_projector|lm_head\.decoder|cls\.predictions\.decoder|output_layer)\.weight$"
)
_CLASSIFIER = re.compile(r"(^|\.)output\.(weight|bias)$")  # a head, if it has the tokens' rows
_BIAS = re.compile(
    r"(^|\.)(lm_head(\.decoder)?|embed_out|output_projection|output|vocab_projector"
    r"|cls\.predictions(\.decoder)?)\.bias$"
)


def main_embedding(source: "Source") -> str:
    """The name of a model's token embeddings. Raises MissingTensor."""
    found = next((name for name in source.names if _is_embedding(name)), None)
    if found is None:
        raise MissingTensor(
            "no token embeddings that are known by their name, for a vocabulary to be changed",
            file=source.path,
        )
    return found


def row_count(source: "Source") -> int:
    """Tokens that a model has embeddings for. Raises MissingTensor."""
    return source.spec(main_embedding(source)).shape[0]


def token_tensors(source: "Source") -> list[str]:
    """Embeddings, head and the head's bias.

    Embeddings of another number of rows are of another vocabulary. A head of another number is not:
    its padding is another.
    """
    rows = row_count(source)
    return [
        name
        for name in source.names
        if (_is_head(name) or _BIAS.search(name) or _is_embedding(name))
        and (source.spec(name).shape[:1] == (rows,) or _is_head_by_name(name))
    ]


def counterpart(source: "Source", name: str) -> str | None:
    """What this model has for another's tensor; None: no bias, which is a bias of zeros.

    A model whose head is its embeddings has those for the other's head.
    """
    if name in source.names:
        return name
    if _BIAS.search(name):
        return None
    if _is_head(name):
        own = next((one for one in source.names if _is_head(one)), None)
        if own is not None:
            return own
    return main_embedding(source)


def _is_head_by_name(name: str) -> bool:
    """Whether it can be nothing else than the head of tokens, or the head's bias."""
    return not (_is_embedding(name) or _CLASSIFIER.search(name))


def _is_embedding(name: str) -> bool:
    return embedding_of((name,)) is not None or bool(_SHARED.search(name))


def _is_head(name: str) -> bool:
    return is_head(name) or bool(_OTHER_HEAD.search(name))
