"""What the images install is enough, and of the project's own versions: deploy/images/*.txt."""

from __future__ import annotations

import json
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
    "gateway": "import gateway.commands.serve, gateway.assembly, onnxruntime, sklearn.linear_model",
    "worker": "import model_pool.__main__, model_pool.transformers_engine, merge_on_load.kernels",
}
# Of this environment, where tests and programs lie together.
OURS = {"deltafleet", "setuptools", "grpcio-tools"}


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


def imported(statement: str) -> set[str]:
    """The distributions that a program of this statement has loaded, in a process of its own."""
    code = f"""{statement}
import json, sys
from importlib import metadata
owners = metadata.packages_distributions()
tops = {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps(sorted({{owner for top in tops for owner in owners.get(top, ())}})))"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {canonicalize_name(name) for name in json.loads(told.stdout)}


def is_namespace(name: str) -> bool:
    """Whether only a shared name, such as google, made it seem to be loaded."""
    return name in {"protobuf", "googleapis-common-protos"} or name.startswith("opentelemetry")


@pytest.mark.parametrize("image", sorted(PROGRAMS))
def test_a_program_imports_nothing_that_its_image_lacks(image: str) -> None:
    used = {name for name in imported(PROGRAMS[image]) if not is_namespace(name)}
    assert "grpcio" in used, "nothing was seen"
    assert used - closure(listed(image)) - OURS == set()


def test_an_image_without_what_a_program_imports_is_seen() -> None:
    less = [one for one in listed("gateway") if one.name != "sqlalchemy" and one.name != "alembic"]
    assert "sqlalchemy" in imported(PROGRAMS["gateway"]) - closure(less)


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
