"""Where each row of every model's rearranged embeddings comes from.

A token that a model has keeps that model's row. For one that it lacks, mergekit's rules,
https://github.com/arcee-ai/mergekit#tokenizer-configuration: the base's row; else the row of the
only model that has it; else the mean of all that have it. `tokens` of a recipe tells otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_on_load.errors import BadRecipe
from merge_on_load.recipes.document import NoToken, Token, TokenPlace
from merge_on_load.recipes.references import Reference
from merge_on_load.vocabulary.tokenizer_file import TokenizerFile

if TYPE_CHECKING:
    from merge_on_load.recipes.sources import Source

Numbers = npt.NDArray[np.int64]

LACKS = -1  # instead of a row
MEAN, ZERO = -1, -2  # instead of a model


@dataclass(frozen=True, slots=True)
class Member:
    """A model whose vocabulary takes part. row_count: rows of its embeddings."""

    reference: Reference
    source: "Source"
    tokenizer: TokenizerFile
    row_count: int

    def row(self, number: int | None) -> int:
        """The row of a token's number; LACKS where there is none."""
        return number if number is not None and 0 <= number < self.row_count else LACKS


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """For each row of the result, of every model.

    own: [member, row], a member's own row of that token or LACKS. donor: [row], the member whose
    row one has that lacks the token, or MEAN, or ZERO. donor_row: [row], which one. is_forced:
    [row], whether those have it too that do not lack the token.
    """

    own: Numbers
    donor: Numbers
    donor_row: Numbers
    is_forced: npt.NDArray[np.bool_]

    @property
    def size(self) -> int:
        """Rows of the result."""
        return int(self.donor.size)

    def is_own(self, member: int) -> npt.NDArray[np.bool_]:
        """[row], whether the member has its own there."""
        found: npt.NDArray[np.bool_] = (self.own[member] != LACKS) & ~self.is_forced
        return found

    def has_means(self, member: int) -> bool:
        """Whether one of the member's rows is a mean."""
        return bool((self.donor[~self.is_own(member)] == MEAN).any())

    def reads(self, member: int) -> dict[int, int]:
        """The members whose rows this one's are filled from, itself among them, in their order.

        Each with the last of its rows that is needed.
        """
        lacking = ~self.is_own(member)
        last_rows = {}
        for place, own in enumerate(self.own):
            needed = [
                self.donor_row[lacking & (self.donor == place)],
                own[lacking & (self.donor == MEAN)],
                own[~lacking] if place == member else own[:0],
            ]
            last_row = int(np.concatenate(needed).max(initial=LACKS))
            if last_row != LACKS or place == member:
                last_rows[place] = last_row
        return last_rows

    def is_as_before(self, member: int) -> bool:
        """Whether every row is the member's own, and where it was."""
        is_own = bool(self.is_own(member).all())
        return is_own and np.array_equal(self.own[member], np.arange(self.size))


def find_rows(
    ids: Mapping[str, int],
    size: int,
    members: Sequence[Member],
    base: int | None,
    tokens: Mapping[str, Token],
) -> Rows:
    """ids: token -> row of the result. base: its place among the members. tokens: the recipe's.

    Raises BadRecipe for a token whose embedding cannot come from where the recipe says.
    """
    own = np.stack([_own(one, ids, size) for one in members])
    donor, donor_row = _fallbacks(own, base)
    is_forced = np.zeros(size, np.bool_)
    for text, told in tokens.items():
        row = ids[text]
        is_forced[row] = told.force
        if told.source is not None:
            donor[row], donor_row[row] = _told_place(text, told, members)
        elif donor[row] == ZERO:
            raise BadRecipe("no model has this token: its source must be told", found=text)
    return Rows(own, donor, donor_row, is_forced)


def place_of(reference: Reference, references: Sequence[Reference], told: str) -> int:
    """Its place. told: what the recipe names there, for the error. Raises BadRecipe."""
    if reference in references:
        return references.index(reference)
    raise BadRecipe(
        f"{told} is none of the recipe's models",
        expected=", ".join(map(str, references)),
        found=str(reference),
    )


def _own(member: Member, ids: Mapping[str, int], size: int) -> Numbers:
    found = np.full(size, LACKS, np.int64)
    for text, number in member.tokenizer.ids.items():
        row = ids.get(text)
        if row is not None and number < member.row_count:
            found[row] = number
    return found


def _fallbacks(own: Numbers, base: int | None) -> tuple[Numbers, Numbers]:
    has = own != LACKS
    counts = has.sum(axis=0)
    donor = np.where(counts == 0, ZERO, MEAN)
    donor[counts == 1] = has.argmax(axis=0)[counts == 1]
    if base is not None:
        donor[has[base]] = base
    donor_row = own[np.maximum(donor, 0), np.arange(donor.size)]
    return donor.astype(np.int64), donor_row


def _told_place(text: str, told: Token, members: Sequence[Member]) -> tuple[int, int]:
    if isinstance(told.source, NoToken):
        return ZERO, LACKS
    place = f"tokenizer.tokens: the source of {text!r}"
    references = [one.reference for one in members]
    if isinstance(told.source, TokenPlace):
        donor = place_of(told.source.model, references, place)
        wanted: str | int = text if told.source.token is None else told.source.token
        if told.source.token_id is not None:
            wanted = told.source.token_id
    else:
        assert isinstance(told.source, Reference)
        donor = place_of(told.source, references, place)
        wanted = text
    member = members[donor]
    number = member.tokenizer.ids.get(wanted) if isinstance(wanted, str) else wanted
    row = member.row(number)
    if row == LACKS:
        raise BadRecipe(
            f"{place} has no such token, or no embedding of it: {member.row_count} rows",
            file=member.tokenizer.path,
            found=wanted,
        )
    return donor, row
