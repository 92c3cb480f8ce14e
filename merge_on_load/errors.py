"""What can go wrong, as one small tree. Importing this module does not import torch."""

from pathlib import Path
from typing import Self


class MergeError(Exception):
    """An expected failure: the input is refused and nothing was written under the final name.

    file, tensor, expected, found: what the message names, each None where it does not apply.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        tensor: str | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.tensor = tensor
        self.expected = expected
        self.found = found
        facts = {"file": self.file, "tensor": tensor, "expected": expected, "found": found}
        told = ", ".join(f"{key}: {fact}" for key, fact in facts.items() if fact is not None)
        super().__init__(f"{problem} ({told})" if told else problem)

    def located(self, *, file: Path | str | None = None, tensor: str | None = None) -> Self:
        """The same error that also names the file and the tensor, unless it did already."""
        return type(self)(
            self.problem,
            file=self.file or file,
            tensor=self.tensor or tensor,
            expected=self.expected,
            found=self.found,
        )


class NotACheckpoint(MergeError):
    """The path is not a directory of safetensors weights as Hugging Face writes them."""


class NotADelta(MergeError):
    """The path is neither a delta directory nor a LoRA adapter."""


class WrongBase(MergeError):
    """The base is not the one the delta was made from."""


class BadChain(MergeError):
    """A delta builds on one that is not there, on too many, or on itself."""


class CorruptPayload(MergeError):
    """A file is missing, truncated, altered or malformed."""


class ShapeMismatch(MergeError):
    """Two tensors that must agree differ in shape, or in a dtype that cannot be reconciled."""


class MissingTensor(MergeError):
    """A tensor is in one place and not in the other."""


class UnknownCodec(MergeError):
    """No codec, or codec setting, bears that name here."""


class UnknownVersion(MergeError):
    """The delta was written by a format version that this library does not read."""


class UnsupportedAdapter(MergeError):
    """A LoRA adapter needs more than base + scale * B @ A on linear weights."""


class UnsupportedDtype(MergeError):
    """A dtype that this library cannot read, or that the chosen codec cannot encode."""


class NonFinite(MergeError):
    """A lossy codec or an adapter met NaN or infinity; it would spread through the tensor."""


class BadRecipe(MergeError):
    """A merge recipe says what cannot be read, is not known here or contradicts itself."""


class BadExamples(MergeError):
    """A file of prompts, or of prompts and answers, cannot be read or has none."""


class QualityMissed(MergeError):
    """No delta keeps the quality, or stays within the size, that was asked."""


class DiskFull(MergeError):
    """There is no room for the output; nothing of it was left behind."""


class OutputExists(MergeError):
    """Something already stands under the output's name."""
