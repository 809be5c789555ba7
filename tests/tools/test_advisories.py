"""A known vulnerability is found in a pin, and in every pair of bounds that admits an affected version."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.advisories import FILE, Range, advisories_from_file, bound_findings, pin_findings
from tools.constraints import MEASURED, pins_from_text
from tools.declared import Dependency

DOCUMENT = json.loads(FILE.read_text())
TORCH = canonicalize_name("torch")


def dependency(lower: int, upper: int | None, name: str = "torch") -> Dependency:
    line = f"{name}=={lower}" if upper is None else f"{name}>={lower},<{upper}"
    return Dependency(
        name=canonicalize_name(name),
        extra=None,
        requirement=Requirement(line),
        lower=Version(str(lower)),
        upper=None if upper is None else Version(str(upper)),
    )


@given(
    introduced=st.integers(0, 9),
    length=st.none() | st.integers(0, 9),
    end_affected=st.booleans(),
    lower=st.integers(0, 9),
    width=st.none() | st.integers(1, 9),
)
def test_bounds_meet_a_range_where_a_version_is_in_both(
    introduced: int, length: int | None, end_affected: bool, lower: int, width: int | None
) -> None:
    affected = Range(
        introduced=Version(str(introduced)),
        end=None if length is None else Version(str(introduced + length)),
        end_affected=end_affected,
    )
    bounds = dependency(lower, None if width is None else lower + width)
    versions = [Version(str(number)) for number in range(30)]
    assert affected.meets(bounds) == any(affected.holds(one) and bounds.admits(one) for one in versions)


def records(folder: Path, *events: dict[str, str]) -> Any:
    path = folder / "advisories.json"
    affected = {"package": {"ecosystem": "PyPI", "name": "Torch"}, "ranges": [{"events": list(events)}]}
    record = {"id": "GHSA-1", "aliases": ["CVE-1"], "summary": "it breaks", "affected": [affected]}
    path.write_text(json.dumps({"reviewed": "2026-01-01", "records": [record]}))
    return advisories_from_file(path).records


@pytest.mark.parametrize(("version", "found"), [("2.5", True), ("2.6.0rc1", True), ("2.6", False), ("3", False)])
def test_a_pin_before_the_fix_is_found(tmp_path: Path, version: str, found: bool) -> None:
    fixed = records(tmp_path, {"introduced": "0"}, {"fixed": "2.6.0"})
    findings = pin_findings(fixed, {TORCH: Version(version)}, "here")
    assert [str(one) for one in findings] == ([f"torch {version} in here: GHSA-1 (CVE-1): it breaks"] if found else [])


def test_the_last_affected_version_is_affected(tmp_path: Path) -> None:
    last = records(tmp_path, {"introduced": "2.0"}, {"last_affected": "2.10.0"})
    assert pin_findings(last, {TORCH: Version("2.10")}, "here")
    assert not pin_findings(last, {TORCH: Version("2.10.1")}, "here")
    assert not pin_findings(last, {TORCH: Version("1.9")}, "here")


def test_what_has_no_fix_is_found_in_every_later_version(tmp_path: Path) -> None:
    unfixed = records(tmp_path, {"introduced": "3"})
    assert bound_findings(unfixed, [dependency(2, 4)]) and not bound_findings(unfixed, [dependency(2, 3)])
    assert not bound_findings(unfixed, [dependency(2, 4, "numpy")])


@pytest.mark.parametrize("record", DOCUMENT["records"], ids=lambda record: record["id"])
def test_a_record_of_ours_says_where_it_is_from(record: dict[str, Any]) -> None:
    assert re.fullmatch(r"GHSA(-[0-9a-z]{4}){3}|PYSEC-\d{4}-\d+", record["id"])
    assert record["aliases"] and all(re.fullmatch(r"CVE-\d{4}-\d{4,}", alias) for alias in record["aliases"])
    assert all(one["type"] == "ADVISORY" and one["url"].startswith("https://") for one in record["references"])
    assert datetime.date.fromisoformat(record["published"]) <= datetime.date.fromisoformat(DOCUMENT["reviewed"])
    assert record["summary"] and record["database_specific"]["here"]
    for affected in record["affected"]:
        assert affected["package"]["ecosystem"] == "PyPI"
        assert {key for one in affected["ranges"] for event in one["events"] for key in event} <= {
            "introduced", "fixed", "last_affected"
        }  # fmt: skip


def test_every_record_of_ours_is_of_something_that_we_install_and_there_once() -> None:
    known = advisories_from_file().records
    assert {one.package for one in known} <= set(pins_from_text(MEASURED.read_text()))
    identifiers = [name for record in DOCUMENT["records"] for name in (record["id"], *record["aliases"])]
    assert len(set(identifiers)) == len(identifiers)
