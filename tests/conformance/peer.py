"""mergekit, which is run in an environment of its own."""

import subprocess
from pathlib import Path

PYTHON = Path(__file__).parents[2] / ".venv-mergekit" / "bin" / "python"


def run_mergekit(folder: Path) -> None:
    """Make FOLDER/NAME/ of each FOLDER/NAME.yaml; a failure's text goes to FOLDER/NAME.error.

    Models are looked for in the folder.
    """
    assert PYTHON.exists(), f"nothing to compare with in {PYTHON.parents[1]}: make mergekit-env"
    script = Path(__file__).with_name("run_mergekit.py")
    subprocess.run([PYTHON, script, folder], check=True, capture_output=True, cwd=folder)


def failure(folder: Path, name: str) -> str:
    """Why mergekit made nothing of a recipe; empty if it made something."""
    told = folder / f"{name}.error"
    return told.read_text() if told.exists() else ""
