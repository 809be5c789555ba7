"""What is handed on: the files of the wheel and of the source distribution, and the licence of each that ships."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from tools.declared import ROOT

TRACKED = {"models", "calibration"}
BINARY = (".zst", ".gz")
MEGABYTE = 10**6


def shipped_files() -> list[Path]:
    return sorted(path for folder in TRACKED for path in (ROOT / folder).iterdir() if path.is_file())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and a source distribution of this tree, by the build backend itself: no environment, no network."""
    folder = tmp_path_factory.mktemp("dist")
    program = f"from hatchling import build; build.build_wheel({str(folder)!r}); build.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, env={**os.environ})
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def facts(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_has_the_package_and_what_ships_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "alexnet_deploy").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {f"alexnet_deploy/shipped/{path.relative_to(ROOT).as_posix()}" for path in shipped_files()}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == package | shipped


def test_what_ships_is_in_the_wheel_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    for path in shipped_files():
        name = f"alexnet_deploy/shipped/{path.relative_to(ROOT).as_posix()}"
        assert sha256(wheel.read(name)) == sha256(path.read_bytes()), path


def test_only_the_checkpoint_is_large(wheel: zipfile.ZipFile) -> None:
    large = {info.filename for info in wheel.infolist() if info.file_size > MEGABYTE}
    assert large == {"alexnet_deploy/shipped/models/alexnet-fashion-mnist.safetensors.zst"}
    assert sum(info.compress_size for info in wheel.infolist()) < 13 * MEGABYTE


def test_the_licences_travel_with_the_wheel(wheel: zipfile.ZipFile, facts: Message) -> None:
    assert facts["License-Expression"] == "Apache-2.0 AND MIT"
    assert facts.get_all("License-File") == ["LICENSE", "calibration/LICENSE", "models/LICENSE"]
    for name in facts.get_all("License-File", []):
        (member,) = [one for one in wheel.namelist() if one.endswith(f".dist-info/licenses/{name}")]
        assert wheel.read(member) == (ROOT / name).read_bytes()


def test_the_metadata_say_what_pyproject_says(facts: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert facts["Requires-Python"] == project["requires-python"]
    assert set(facts.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert len([line for line in facts.get_all("Requires-Dist", []) if "extra ==" not in line]) == len(
        project["dependencies"]
    )


def test_the_source_distribution_is_the_tracked_tree(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {"pyproject.toml", "Makefile", "LICENSE", "README.md", ".ci/run", "tests", "alexnet_deploy", "tools"}
    for name in tracked:
        assert any(one == name or one.startswith(f"{name}/") for one in names), name
    assert not {one for one in names if re.match(r"(\.venv|artifacts|dist|build|\.git)(/|$)|.*__pycache__", one)}
    assert path.stat().st_size < 16 * MEGABYTE


@pytest.fixture(scope="module")
def listed() -> dict[str, list[str]]:
    """File -> the cells of its row in docs/licences.md."""
    rows = [line for line in (ROOT / "docs" / "licences.md").read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_shipped_file_has_its_licence_source_and_hash_on_the_page(listed: dict[str, list[str]]) -> None:
    names = {path.relative_to(ROOT).as_posix() for path in shipped_files()}
    binaries = {name for name in names if name.endswith(BINARY)}
    assert set(listed) == binaries
    for name in binaries:
        licence, source, digest = listed[name]
        assert licence == ("MIT" if name.startswith("calibration/") else "Apache-2.0")
        assert source and digest == f"`{sha256((ROOT / name).read_bytes())}`"
    # What is no binary is text that a reader sees through: cards, manifests, licences.
    assert names - binaries == {
        "models/LICENSE", "models/README.md", "models/alexnet-fashion-mnist.toml",
        "calibration/LICENSE", "calibration/manifest.json",
    }  # fmt: skip


def test_card_and_manifest_state_the_same_licences_and_hashes(listed: dict[str, list[str]]) -> None:
    card = tomllib.loads((ROOT / "models" / "alexnet-fashion-mnist.toml").read_text())
    assert listed[f"models/{card['model']['file']}"][2] == f"`{card['model']['sha256']}`"
    assert card["model"]["licence"] == "Apache-2.0" and card["data"]["licence"] == "MIT"
    manifest = json.loads((ROOT / "calibration" / "manifest.json").read_text())
    assert manifest["licence"].startswith("MIT, Copyright (c) 2017 Zalando SE")
    stated = {
        f"calibration/{part['file']}": f"`{part['sha256']}`"
        for one in manifest["sets"].values()
        for part in (one["images"], one["labels"])
    }
    assert {name: row[2] for name, row in listed.items() if name.startswith("calibration/")} == stated


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LICENSE", "Apache License"),
        ("models/LICENSE", "SPDX-License-Identifier: Apache-2.0"),
        ("calibration/LICENSE", "Copyright (c) 2017 Zalando SE"),
    ],
)
def test_a_licence_lies_beside_what_it_is_for(name: str, words: str) -> None:
    assert words in (ROOT / name).read_text()
