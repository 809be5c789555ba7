"""A licence that nobody read is a finding; NVIDIA's terms are named one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.fake import install
from tests.tools.test_declared import declared
from tools.declared import installed
from tools.licences import licence_findings


def findings(folder: Path, *headers: str, name: str = "thing") -> list[str]:
    install(folder, name, headers=headers)
    return [one.problem for one in licence_findings(declared(folder, f"{name}>=1,<2"), installed([str(folder)]))[0]]


@pytest.mark.parametrize(
    "headers",
    [
        ("License-Expression: MIT AND (Apache-2.0 WITH LLVM-exception OR BSD-2-Clause)",),
        ("Classifier: License :: OSI Approved :: BSD License",),
        ("License: 3-Clause BSD License",),
        # The classifier speaks where License holds a text.
        ("License: " + "Permission is hereby granted " * 9, "Classifier: License :: OSI Approved :: MIT License"),
    ],
)
def test_a_licence_of_the_list_is_fit(tmp_path: Path, headers: tuple[str, ...]) -> None:
    assert findings(tmp_path, *headers) == []


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (("License-Expression: MIT AND AGPL-3.0-only",), "AGPL-3.0-only"),
        (("Classifier: License :: Other/Proprietary License",), "Other/Proprietary License"),
        (("License: " + "All rights reserved. " * 9,), "a text of its own"),
        ((), "none stated"),
    ],
)
def test_any_other_is_a_finding(tmp_path: Path, headers: tuple[str, ...], said: str) -> None:
    assert findings(tmp_path, *headers) == [f"licence {said} is not on the list"]


def test_proprietary_packages_are_named_one_by_one(tmp_path: Path) -> None:
    proprietary = "Classifier: License :: Other/Proprietary License"
    assert findings(tmp_path, proprietary, name="nvidia-cublas") == []
    assert findings(tmp_path, proprietary, name="nvidia-something-new") != []


def test_what_only_developers_install_is_not_looked_at(tmp_path: Path) -> None:
    install(tmp_path, "extra-one", "3.1", headers=("License-Expression: AGPL-3.0-only",))
    everything = installed([str(tmp_path)])
    assert licence_findings(declared(tmp_path, extra="dev"), everything) == ([], 0)
    assert licence_findings(declared(tmp_path, extra="more"), everything)[1] == 1
