"""Token ids in, text out: whole characters only, and never a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What a decoder writes for bytes that are no character: at the end of a text it may be one whose
# last bytes are in the next token.
INCOMPLETE = "\ufffd"


class Detokenizer:
    """Decodes one answer token by token; the parts joined are the decoding of all its tokens.

    Each step decodes a short window: the tokens whose text went out last (a decoder may treat the
    first token of its input in a special way) and the new ones. Exact for byte-level tokenizers.
    With byte fallback (SentencePiece) a character followed by bytes that are no text may differ,
    as its decoder judges a run of bytes as a whole.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        """decode: token ids -> text without special tokens."""
        self._decode = decode
        self._token_ids: list[int] = []
        self._context_start = 0
        self._unsent_start = 0
        self._context_text = ""

    def add(self, token_id: int) -> str:
        """The text that this token completes: empty while a character lacks its last bytes."""
        self._token_ids.append(token_id)
        text = self._decode(self._token_ids[self._context_start :])
        if len(text) <= len(self._context_text) or text.endswith(INCOMPLETE):
            return ""
        new_text = text[len(self._context_text) :]
        self._context_start, self._unsent_start = self._unsent_start, len(self._token_ids)
        self._context_text = self._decode(self._token_ids[self._context_start :])
        return new_text

    def finish(self) -> str:
        """The text still held back. Bytes that never became a character decode to U+FFFD."""
        text = self._decode(self._token_ids[self._context_start :])
        return text[len(self._context_text) :]


class StopSearch:
    """Cuts a stream of text before the first stop text that completes.

    What may be the beginning of a stop text is held back until it is known not to be one, so the
    result does not depend on how the text was divided.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """stops: texts that end the answer; empty ones are ignored."""
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_stopped = False

    def add(self, text: str) -> str:
        """The text that may go out now. Once `is_stopped`, nothing more does."""
        if not self._stops:
            return text
        self._held += text
        if (cut := self._first_stop()) is not None:
            self.is_stopped = True
            released, self._held = self._held[:cut], ""
            return released
        keep = self._held_back_count()
        released = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return released

    def finish(self) -> str:
        """The text held back, when no more will come."""
        released, self._held = self._held, ""
        return released

    def _first_stop(self) -> int | None:
        """Where the stop text that ends first begins; of several, the longest."""
        found = [
            (start + len(stop), start)
            for stop in self._stops
            if (start := self._held.find(stop)) >= 0
        ]
        return min(found)[1] if found else None

    def _held_back_count(self) -> int:
        """Characters at the end that begin a stop text: at most the longest stop less one."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for count in range(longest, 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stops):
                return count
        return 0


class TextStream:
    """The text of one answer as its tokens come."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode)
        self._search = StopSearch(stops)

    @property
    def is_stopped(self) -> bool:
        """True once a stop text was found: the answer is complete."""
        return self._search.is_stopped

    def add(self, token_id: int) -> str:
        """The text that may be shown after this token, often empty."""
        return self._search.add(self._detokenizer.add(token_id))

    def finish(self) -> str:
        """The last text, unless a stop text cut it."""
        if self.is_stopped:
            return ""
        last = self._search.add(self._detokenizer.finish())
        return last if self.is_stopped else last + self._search.finish()
