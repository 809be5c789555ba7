"""Requirements are bounded on both sides; what an environment holds because of us is followed through extras."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from alexnet_deploy.errors import InputError
from tests.tools.fake import install
from tools.declared import Dependency, closure, dependencies, installed


def declared(folder: Path, *lines: str, extra: str = "more") -> list[Dependency]:
    path = folder / "pyproject.toml"
    path.write_text(
        '[build-system]\nrequires = ["builder>=1,<2"]\n[project]\n'
        f"dependencies = {list(lines)!r}\n[project.optional-dependencies]\n{extra} = ['extra-one==3.1']\n"
    )
    return dependencies(path)


def test_bounds_are_read(tmp_path: Path) -> None:
    first, second, build = declared(tmp_path, "Some.Thing>=1.2,<3; python_version > '3'")
    assert (first.name, first.extra, str(first.lower), str(first.upper)) == ("some-thing", None, "1.2", "3")
    assert (second.extra, second.lower, second.upper) == ("more", Version("3.1"), None)
    assert build.extra == "build"
    assert first.admits(Version("2.9")) and not first.admits(Version("3")) and not first.admits(Version("1.1"))


@pytest.mark.parametrize("line", ["thing", "thing>=1", "thing<2", "thing~=1.2", "thing>=1,!=1.5", "thing>1,<2"])
def test_a_missing_bound_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match="lacks a bound") as caught:
        declared(tmp_path, line)
    assert caught.value.got == line and caught.value.remedy


def test_a_requirement_of_another_system_does_not_apply(tmp_path: Path) -> None:
    here, there, _ = declared(tmp_path, "here>=1,<2; sys_platform != 'plan9'", "there>=1,<2; sys_platform == 'plan9'")[
        :3
    ]
    assert here.applies and not there.applies


def test_the_closure_follows_requirements_markers_and_extras(tmp_path: Path) -> None:
    install(tmp_path, "root", requires=("middle[fast]", "elsewhere; sys_platform == 'plan9'"))
    install(tmp_path, "middle", requires=("leaf; extra == 'fast'", "unasked; extra == 'slow'", "root"))
    for name in ("leaf", "unasked", "elsewhere", "unrelated"):
        install(tmp_path, name)
    roots = declared(tmp_path, "root>=1,<2", "not-installed>=1,<2")
    assert closure(roots, installed([str(tmp_path)])) == {"root", "middle", "leaf"}


def test_a_package_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    install(tmp_path, "twice", "1.0")
    install(tmp_path, "twice", "2.0")
    with pytest.raises(InputError, match="twice is installed twice"):
        installed([str(tmp_path)])
