"""A file that was changed, added or lost after its installation is found, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.fake import install
from tools import records
from tools.declared import installed
from tools.records import origin_findings, record_findings, stray_findings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    install(tmp_path, "one", files={"one/__init__.py": "A = 1\n", "one/data.bin": "x" * 100})
    install(tmp_path, "two")
    return tmp_path


def problems(folder: Path, *, complete: bool = False) -> list[str]:
    return [str(one) for one in record_findings(installed([str(folder)]), complete=complete)[0]]


def test_what_is_as_installed_is_no_finding(folder: Path) -> None:
    findings, compared = record_findings(installed([str(folder)]))
    # Two METADATA, two modules and the data; a RECORD has no hash of itself.
    assert (findings, compared) == ([], 5)


def test_one_changed_byte_is_found(folder: Path) -> None:
    (folder / "one/__init__.py").write_text("A = 2\n")
    assert problems(folder) == ["one 1.0: one/__init__.py has other bytes than were installed"]


def test_another_size_is_found_without_reading(folder: Path) -> None:
    (folder / "one/data.bin").write_text("x" * 99)
    assert problems(folder) == ["one 1.0: one/data.bin has 99 bytes, and 100 were installed"]


def test_a_lost_file_is_found(folder: Path) -> None:
    (folder / "two/__init__.py").unlink()
    assert problems(folder) == ["two 1.0: two/__init__.py cannot be read: No such file or directory"]


def test_a_large_file_is_read_only_where_all_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGE_BYTES", 90)
    (folder / "one/data.bin").write_text("y" * 100)
    assert problems(folder) == []
    assert problems(folder, complete=True) == ["one 1.0: one/data.bin has other bytes than were installed"]


def test_a_distribution_without_a_record_is_found(folder: Path) -> None:
    (folder / "one-1.0.dist-info/RECORD").unlink()
    assert problems(folder) == ["one: has no RECORD, so its files are nobody's"]


def test_files_that_nobody_installed_are_found(folder: Path) -> None:
    (folder / "start.pth").write_text("import os\n")
    (folder / "two/extra.py").write_text("")
    findings = stray_findings(installed([str(folder)]), folder)
    assert [one.subject for one in findings] == ["start.pth", "two/extra.py"]


def test_compiled_python_is_nobodys_and_no_finding(folder: Path) -> None:
    (folder / "one/__pycache__").mkdir()
    (folder / "one/__pycache__/__init__.cpython-311.pyc").write_bytes(b"")
    assert stray_findings(installed([str(folder)]), folder) == []


def test_only_we_may_come_from_a_folder(folder: Path) -> None:
    install(folder, "alexnet-deploy", origin='{"url": "file:///home", "dir_info": {"editable": true}}')
    install(folder, "three", origin='{"url": "https://example.org/three.git", "vcs_info": {"vcs": "git"}}')
    findings = origin_findings(installed([str(folder)]))
    assert [str(one) for one in findings] == ["three 1.0: came from https://example.org/three.git"]
