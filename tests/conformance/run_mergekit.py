"""Runs recipes in mergekit's environment, one after the other: imports take longer than merges.

    .venv-mergekit/bin/python tests/conformance/run_mergekit.py FOLDER

Each FOLDER/NAME.yaml is merged to FOLDER/NAME/, or assembled there if it has experts; a failure's
text goes to FOLDER/NAME.error.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from mergekit.scripts.moe import main as mergekit_moe


def main(folder: Path) -> None:
    for recipe in sorted(folder.glob("*.yaml")):
        settings = yaml.safe_load(recipe.read_text())
        seed = settings.pop("seed", 1)
        try:
            if "experts" in settings:
                assemble(recipe)
            else:
                merge(settings, recipe.with_suffix(""), seed)
        except (Exception, SystemExit) as failure:
            recipe.with_suffix(".error").write_text(f"{type(failure).__name__}: {failure}")


def merge(settings: dict[str, Any], out: Path, seed: int) -> None:
    options = MergeOptions(
        cuda=False, copy_tokenizer=False, random_seed=seed, quiet=True, write_model_card=False
    )
    run_merge(MergeConfiguration.model_validate(settings), str(out), options)


def assemble(recipe: Path) -> None:
    """What the command mergekit-moe does."""
    flags = ["--quiet", "--no-write-model-card", "--no-copy-tokenizer"]
    flags += ["--i-understand-this-is-not-useful-without-training"]  # of gate_mode random
    mergekit_moe([str(recipe), str(recipe.with_suffix("")), *flags], standalone_mode=False)


main(Path(sys.argv[1]))
