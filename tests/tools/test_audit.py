"""The audit ends well in one line, and with 3 and the findings where there are any."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from alexnet_deploy.errors import InputError
from tests.tools.fake import install
from tests.tools.test_declared import declared
from tools import audit as module
from tools.advisories import Advisories, advisories_from_file
from tools.audit import advisory_findings, audit, main, requirement_findings
from tools.declared import dependencies, installed
from tools.records import Finding


def test_a_clean_audit_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "audit", lambda complete: ([], "all looked at"))
    assert main([]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("supply: all looked at, ") and printed.out.count("\n") == 1 and not printed.err


def test_findings_fail_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def found(complete: bool) -> tuple[list[Finding], str]:
        asked.append(complete)
        return [Finding(subject="torch", problem="is odd")], ""

    monkeypatch.setattr(module, "audit", found)
    assert main(["--complete"]) == 3 and asked == [True]
    assert capsys.readouterr() == ("", "supply: torch: is odd\n")


def test_what_cannot_be_audited_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(complete: bool) -> tuple[list[Finding], str]:
        raise InputError("torch is installed twice", remedy="make it anew")

    monkeypatch.setattr(module, "audit", broken)
    assert main([]) == 2
    assert "torch is installed twice\n  remedy: make it anew" in capsys.readouterr().err


def test_unmet_requirements_are_found(tmp_path: Path) -> None:
    install(tmp_path, "old", "0.9")
    install(tmp_path, "asks", requires=("old>=1", "absent", "unasked; extra == 'slow'"))
    environment = installed([str(tmp_path)])
    ours = declared(tmp_path, "old>=0.5,<0.9", "gone>=1,<2", "nowhere>=1,<2; sys_platform == 'plan9'")
    assert [str(one) for one in requirement_findings(ours, environment)] == [
        "old 0.9: we require old<0.9,>=0.5",
        "gone: is missing, and we require gone<2,>=1",
        "asks 1.0: requires old>=1, got 0.9",
        "asks 1.0: requires absent, got none",
    ]


def test_a_fit_environment_has_no_unmet_requirement(tmp_path: Path) -> None:
    install(tmp_path, "new", "1.5")
    install(tmp_path, "asks", requires=("new>=1",))
    assert requirement_findings(declared(tmp_path, "new>=1,<2"), installed([str(tmp_path)])) == []


def test_an_advisory_is_looked_for_in_bounds_environment_and_both_constraints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [one for one in advisories_from_file().records if one.identifier == "GHSA-53q9-r3pm-6pq6"]
    install(tmp_path, "torch", "2.5.1")
    for name in ("MEASURED", "LOWEST"):
        path = tmp_path / f"{name}.txt"
        path.write_text("torch==2.5.0\n")
        monkeypatch.setattr(module, name, path)
    findings = advisory_findings(
        declared(tmp_path, "torch>=2.4,<3"), installed([str(tmp_path)]), Advisories(reviewed="", records=tuple(known))
    )
    assert [one.subject for one in findings] == [
        "torch<3,>=2.4 in pyproject.toml admits",
        "torch 2.5.1 in this environment",
        "torch 2.5.0 in constraints/MEASURED.txt",
        "torch 2.5.0 in constraints/LOWEST.txt",
    ]


def test_our_own_bounds_and_constraints_have_no_known_vulnerability() -> None:
    assert advisory_findings(dependencies(), {}, advisories_from_file()) == []


def test_an_older_lower_bound_of_ours_would_be_found() -> None:
    from tools.advisories import pin_findings

    older = {canonicalize_name("pillow"): Version("12.3.0"), canonicalize_name("onnx"): Version("1.21.0")}
    found = pin_findings(advisories_from_file().records, older, "a test")
    assert {one.subject.split()[0] for one in found} == {"pillow", "onnx"}


def test_the_whole_audit_joins_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "record_findings": ([Finding(subject="a", problem="changed")], 7),
        "stray_findings": [Finding(subject="b", problem="stray")],
        "origin_findings": [Finding(subject="c", problem="elsewhere")],
        "requirement_findings": [Finding(subject="d", problem="unmet")],
        "licence_findings": ([Finding(subject="e", problem="licence")], 9),
        "advisory_findings": [Finding(subject="f", problem="known")],
    }
    for name, given in parts.items():
        monkeypatch.setattr(module, name, lambda *_, given=given, **__: given)
    findings, said = audit()
    assert sorted({one.subject for one in findings}) == ["a", "b", "c", "d", "e", "f"]
    assert "7 files" in said and "9 packages" in said and advisories_from_file().reviewed in said
