"""The page's files: all are carried along, all are our own or named, none needs another place."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from gateway.page.documents import Document, load_static
from support.fleet import REPO

STATIC = REPO / "gateway" / "page" / "static"
FILES = load_static()
OURS = {path: one.body.decode() for path, one in FILES.items() if not path.startswith("vendor/")}


def test_everything_that_is_referred_to_is_served() -> None:
    html = OURS["index.html"]
    wanted = set(re.findall(r'(?:src|href)="static/([^"]+)"', html))
    for path, text in OURS.items():
        if path.endswith(".js"):
            wanted |= set(re.findall(r'from "\./([^"]+)"', text))

    assert {"page.js", "page.css", "vendor/chart.umd.min.js", "icon.svg"} <= wanted
    assert wanted | {"index.html"} == set(FILES)


def test_nothing_is_inline_and_nothing_from_elsewhere() -> None:
    html = OURS["index.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", html)
    for path, text in OURS.items():
        addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path


def test_no_text_becomes_markup() -> None:
    for path, text in OURS.items():
        if path.endswith(".js"):
            found = re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text
            )
            assert not found, path


def test_the_library_is_the_pinned_one() -> None:
    pinned = re.search(r"^version=(.+)$", (REPO / "tools" / "vendor-page").read_text(), re.M)
    assert pinned
    head = FILES["vendor/chart.umd.min.js"].body[:200].decode()
    assert f"Chart.js v{pinned[1]}\n" in head and "MIT License" in head
    assert f"| {pinned[1]} |" in (STATIC / "vendor" / "README.md").read_text()
    assert (STATIC / "vendor" / "chart.LICENSE.md").is_file()


def test_a_document_is_named_by_what_it_says() -> None:
    one, other = Document.of_json({"a": 1}), Document.of_json({"a": 2})
    assert one.etag != other.etag
    assert hashlib.sha256(one.body).hexdigest().startswith(one.etag.strip('"'))


def test_a_wheel_carries_the_page(tmp_path: Path) -> None:
    """Built by the backend itself: no network."""
    shutil.copytree(REPO / "gateway", tmp_path / "tree" / "gateway")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPO / name, tmp_path / "tree")
    (tmp_path / "tree" / "proto" / "gen" / "deltafleet").mkdir(parents=True)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path / "tree", capture_output=True, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = set(archive.namelist())

    assert {f"gateway/page/static/{path}" for path in FILES} <= carried
    assert "gateway/page/static/vendor/chart.LICENSE.md" in carried
