"""A tokenizer.json that grows by the tokens of others.

Numbers that a token has in the owner's tokenizer stay; every new token gets the next one. What a
text becomes is told by the owner's normalizer, pre-tokenizer and decoder, which nothing changes.

Where the owner's tokenizer and the union differ on a text that the owner knew:

- BPE: the owner's merges come first and are all done before any other; others' merges are taken
  over only where they make a token that the owner lacked. So a text keeps its tokens unless two
  of them can be joined to one that is new.
- Unigram: new pieces keep the score of the tokenizer that they come from. Scores are logarithms of
  frequencies in the text that a tokenizer was made from, which are not the same for two of them: a
  text that holds a new piece may be cut otherwise.
- WordPiece takes the longest piece: a word that is itself, or begins with, a new piece changes.
- An added token of another model is found in a text before all else, wherever it stands in it.
"""

from collections.abc import Mapping
from typing import Any

from merge_on_load.errors import BadRecipe
from merge_on_load.vocabulary.tokenizer_file import Flags, Merge, TokenizerFile, write_object

NEW_TOKEN: Flags = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}


class Draft:
    """The result's tokenizer in the making.

    ids: token -> number. added: flags of the added tokens among them.
    """

    def __init__(self, owner: TokenizerFile) -> None:
        self.owner = owner
        self.ids = dict(owner.ids)
        self.added = dict(owner.added)
        self._pieces: dict[str, float] = {}  # new ones of the model proper, with Unigram's score
        self._merges: dict[Merge, None] = {}
        self._next = max(self.ids.values()) + 1

    @property
    def has_new_pieces(self) -> bool:
        """Whether the model proper grew, and not only the added tokens."""
        return bool(self._pieces)

    @property
    def is_changed(self) -> bool:
        """Whether tokenizer.json is to be written anew."""
        owner = self.owner
        return bool(owner.beside or self._pieces or self.added != owner.added)

    @property
    def new_added(self) -> dict[str, int]:
        """Added tokens that the owner lacked, and their numbers."""
        return {text: self.ids[text] for text in self.added if text not in self.owner.ids}

    def join(self, other: TokenizerFile) -> None:
        """Take in what another has, in the order of its numbers. Raises BadRecipe: another kind."""
        owner = self.owner
        if other.content == owner.content and other.beside == owner.beside:
            return
        if other.kind != owner.kind:
            raise BadRecipe(
                f"no union of tokenizers of two kinds: as in {owner.path}, or take one with "
                "`tokenizer_source: base`",
                file=other.path,
                expected=str(owner.kind),
                found=str(other.kind),
            )
        scores = other.scores
        for text in sorted(other.ids, key=other.ids.__getitem__):
            self._join_token(text, other.added.get(text), scores.get(text, 0.0))
        for left, right in other.merges():
            made = self._made(left, right)
            if made not in owner.ids and {made, left, right} <= self.ids.keys():
                self._merges[left, right] = None

    def append(self, text: str, flags: Flags) -> None:
        """An added token that no union brought."""
        self._number(text)
        self.added[text] = flags

    def content(self) -> bytes:
        """tokenizer.json. Raises BadRecipe where the tokenizers library would read it otherwise."""
        if not self.is_changed:
            return self.owner.content
        content = self._written()
        _check(content, self.ids, self.owner)
        return content

    def _written(self) -> bytes:
        vocab = self.owner.vocab
        placed = {text: self.ids[text] for text in self._pieces}
        # A merge is of tokens of the model proper, which another may have as added ones alone.
        merged = {part for one in self._merges for part in (*one, self._made(*one))}
        placed |= {text: self.ids[text] for text in merged if text not in vocab}
        if not _follow(vocab | placed, self._added_by_number()):
            # An added token that is also the model's gets its number from there.
            placed |= {text: self.ids[text] for text in self.added if text not in vocab}
        told = {
            **self.owner.told,
            "added_tokens": [
                {"id": number, "content": text, **self.added[text]}
                for text, number in self._added_by_number()
            ],
            "model": self._model(vocab, placed),
        }
        return write_object(told, indent=None)

    def _join_token(self, text: str, flags: Flags | None, score: float) -> None:
        if text not in self.ids:
            self._number(text)
            if flags is None:
                self._pieces[text] = score
            else:
                self.added[text] = flags
        elif flags is not None and flags["special"]:
            mine = self.added.get(text)
            self.added[text] = flags if mine is None else {**mine, "special": True}

    def _made(self, left: str, right: str) -> str:
        return left + right.removeprefix(self.owner.kind.prefix)

    def _number(self, text: str) -> None:
        self.ids[text] = self._next
        self._next += 1

    def _added_by_number(self) -> list[tuple[str, int]]:
        return sorted(((text, self.ids[text]) for text in self.added), key=lambda one: one[1])

    def _model(self, vocab: Mapping[str, int], placed: Mapping[str, int]) -> dict[str, Any]:
        model = dict(self.owner.model)
        if isinstance(model["vocab"], list):
            model["vocab"] = [*model["vocab"], *self._new_list(len(vocab), placed)]
        else:
            model["vocab"] = {**vocab, **placed}
        if self._merges:
            model["merges"] = _with_merges(model["merges"], list(self._merges))
        return model

    def _new_list(self, begin: int, placed: Mapping[str, int]) -> list[list[Any]]:
        """Unigram's pieces have no numbers of their own: they follow each other.

        An added token gets the worst score there is, so that no text is cut by it.
        """
        worst = min(self.owner.scores.values())
        listed = sorted(placed.items(), key=lambda one: one[1])
        for place, (text, number) in enumerate(listed, begin):
            if number != place:
                raise BadRecipe(
                    f"the numbers of its tokens have a gap, before {text!r}",
                    file=self.owner.path,
                    expected=place,
                    found=number,
                )
        return [[text, self._pieces.get(text, worst)] for text, _ in listed]


def _with_merges(found: list[Any], new: list[Merge]) -> list[Any]:
    """In the form that the file has: `"a b"`, or `["a", "b"]`, which alone allows spaces."""
    is_text = all(isinstance(one, str) for one in found)
    if is_text and not any(" " in part for merge in new for part in merge):
        return [*found, *(" ".join(one) for one in new)]
    listed = [one.split(" ") if isinstance(one, str) else one for one in found]
    return [*listed, *(list(one) for one in new)]


def _follow(vocab: Mapping[str, int], added: list[tuple[str, int]]) -> bool:
    """Whether the tokenizers library gives these added tokens these numbers.

    It does not read them: a token that is the model's has the number that it has there, others
    follow the last added one, or as many as the model has tokens.
    """
    last = -1
    for text, number in added:
        expected = vocab.get(text)
        if expected is None:
            expected = last + 1 if last >= len(vocab) else len(vocab)
        if expected != number:
            return False
        last = max(last, number)
    return True


def _check(content: bytes, ids: Mapping[str, int], owner: TokenizerFile) -> None:
    """Load it as those who use the result will."""
    from tokenizers import Tokenizer  # here: only what changed is checked

    try:
        loaded = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing more special
        raise BadRecipe(f"cannot be added to: {error}", file=owner.path) from error
    for text, number in ids.items():
        if loaded.token_to_id(text) != number:
            raise BadRecipe(
                f"cannot be added to: the number of {text!r} would be another",
                file=owner.path,
                expected=number,
                found=loaded.token_to_id(text),
            )
