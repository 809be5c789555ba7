"""Constraints name one version of each package and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from alexnet_deploy.errors import InputError
from tests.tools.fake import install
from tools.constraints import constraints_from_environment, pins_from_text
from tools.declared import installed


def test_what_is_installed_because_of_us_is_pinned(tmp_path: Path) -> None:
    # torch and pytest are among our requirements, whatever their bounds.
    install(tmp_path, "torch", "2.13.0+cpu", requires=("Needed_By.Torch",))
    install(tmp_path, "needed-by-torch", "4.5")
    install(tmp_path, "pytest", "9.1")
    install(tmp_path, "unrelated", "1.0")
    install(tmp_path, "alexnet-deploy", "0.1.0")
    text = constraints_from_environment(installed([str(tmp_path)]))
    assert text.splitlines()[0].startswith("# CPython 3.")
    assert text.splitlines()[1:] == ["needed-by-torch==4.5", "pytest==9.1", "torch==2.13.0"]
    assert pins_from_text(text)[canonicalize_name("torch")] == Version("2.13.0")


@pytest.mark.parametrize("line", ["torch>=2", "torch", "torch==2,==3", "torch @ https://example.org/torch.whl"])
def test_a_line_that_is_no_pin_is_refused(line: str) -> None:
    with pytest.raises(InputError, match="not one version"):
        pins_from_text(f"# head\nnumpy==2.0\n{line}\n")
