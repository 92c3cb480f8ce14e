"""Runs recipes in mergekit's environment, one after the other: imports take longer than merges.

    .venv-mergekit/bin/python tests/conformance/run_mergekit.py FOLDER

Each FOLDER/NAME.yaml is merged to FOLDER/NAME/; a failure's text goes to FOLDER/NAME.error.
"""

import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge


def main(folder: Path) -> None:
    for recipe in sorted(folder.glob("*.yaml")):
        settings = yaml.safe_load(recipe.read_text())
        seed = settings.pop("seed", 1)
        options = MergeOptions(
            cuda=False, copy_tokenizer=False, random_seed=seed, quiet=True, write_model_card=False
        )
        try:
            configuration = MergeConfiguration.model_validate(settings)
            run_merge(configuration, str(recipe.with_suffix("")), options)
        except Exception as failure:
            recipe.with_suffix(".error").write_text(f"{type(failure).__name__}: {failure}")


main(Path(sys.argv[1]))
