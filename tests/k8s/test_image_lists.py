"""What the images install is enough, and of the project's own versions: deploy/images/*.txt."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.fleet import REPO

IMAGES = REPO / "deploy" / "images"
# What each program imports when it starts, beside what it imports when it is asked for it.
PROGRAMS = {
    "gateway": "import gateway.commands.serve, gateway.assembly, gateway.identity.tokens, "
    "cryptography, onnxruntime, sklearn.linear_model",
    "worker": "import model_pool.__main__, model_pool.transformers_engine, merge_on_load.kernels",
}
# Of this environment, where tests and programs lie together.
OURS = {"deltafleet"}


def listed(image: str) -> list[Requirement]:
    lines = (IMAGES / f"{image}.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def closure(requirements: list[Requirement]) -> set[str]:
    """These and all that they need here, by canonical name."""
    found: set[str] = set()
    waiting = [(one, extra) for one in requirements for extra in (*one.extras, "")]
    while waiting:
        one, extra = waiting.pop()
        name = canonicalize_name(one.name)
        key = f"{name}[{extra}]"
        if key in found:
            continue
        found |= {key, name}
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform or Python
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(need, inner) for inner in (*need.extras, "")]
    return found


def importing(statement: str, names: set[str]) -> subprocess.CompletedProcess[str]:
    """Run a statement where no other distributions can be imported than those of these names."""
    owners = metadata.packages_distributions()
    hidden = [top for top, own in owners.items() if not names & set(map(canonicalize_name, own))]
    code = f"""import sys
hidden = set({hidden!r})
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        is_hidden = name.partition(".")[0] in hidden
        return None if is_hidden else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Hiding, sys.meta_path)
{statement}"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("image", sorted(PROGRAMS))
def test_a_program_imports_nothing_that_its_image_lacks(image: str) -> None:
    ended = importing(PROGRAMS[image], closure(listed(image)) | OURS)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("image", "name"), [("gateway", "sqlalchemy"), ("worker", "torch")])
def test_an_image_without_what_a_program_imports_is_seen(image: str, name: str) -> None:
    less = closure(listed(image)) - {name, *(("alembic",) if image == "gateway" else ())}
    ended = importing(PROGRAMS[image], less | OURS)
    assert ended.returncode != 0 and name in ended.stderr


@pytest.mark.parametrize("image", ["gateway", "worker", "worker-vllm"])
def test_what_an_image_installs_is_what_the_project_asks_for(image: str) -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    asked = {canonicalize_name(Requirement(one).name) for one in project["dependencies"]}
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for line in (REPO / "constraints.txt").read_text().splitlines()
    }
    names = {canonicalize_name(one.name) for one in listed(image)}

    assert names <= asked
    assert names <= pinned
    assert all(not one.specifier for one in listed(image)), "versions are in constraints.txt"


@pytest.mark.parametrize("file", sorted(IMAGES.glob("Containerfile.*")), ids=lambda file: file.name)
def test_a_containerfile_keeps_the_rules(file: Path) -> None:
    text = file.read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?", text, re.MULTILINE)
    names = {name for _, name in stages if name}
    for base, _ in stages:
        assert base in names or base.startswith("${"), f"{base} cannot be pinned from outside"
    for default in re.findall(r"^ARG \w+_IMAGE=(\S+)", text, re.MULTILINE):
        assert ":" in default.rpartition("/")[2] and not default.endswith(":latest")
    final = text[text.rindex("\nFROM ") :]
    if file.name != "Containerfile.demo-fleet":  # it is the worker's, with files
        assert "\nUSER 10001:10001\n" in final
        assert "HF_HUB_OFFLINE=1" in final
    assert not re.search(r"^(ADD|RUN .*(curl|wget))", text, re.MULTILINE)
