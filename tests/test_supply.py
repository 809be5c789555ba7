"""What the package imports is what it declares; what it declares is what was tried."""

from __future__ import annotations

import ast
import json
import platform
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch.onnx
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from alexnet_deploy.optional import _EXTRAS
from tools.audit import requirement_findings
from tools.constraints import LOWEST, MEASURED, pins_from_text
from tools.declared import DEV, ROOT, Dependency, dependencies, installed

DECLARED = dependencies()
# Distribution -> what it is imported as, where the names differ.
MODULES = {
    "cuda-bindings": "cuda",
    "mlcommons-loadgen": "mlperf_loadgen",
    "onnxruntime-gpu": "onnxruntime",
    "pillow": "PIL",
    "protobuf": "google",
}
# Declared and imported by nobody here, with whom they are for.
FOR_OTHERS = {
    "onnxscript": "torch.onnx.export writes graphs with it",
    "ruff": "make check",
    "mypy": "make check",
}
# Needs a GPU or NVIDIA's own index; their bounds say in pyproject.toml that they were not tried.
NOT_TRIED = {"tensorrt", "onnxruntime-ep-nv-tensorrt-rtx", "pycuda"}
# Imports a package that whoever imports it has asked `require` for.
ASKED_ELSEWHERE = {
    "lrn/kernel.py": {"triton"},
    "lrn/plugin_tensorrt.py": {"tensorrt"},
}


def module_of(name: str) -> str:
    return MODULES.get(name, name.replace("-", "_"))


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Root of every absolute import, with its node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0], node


def foreign(folder: str) -> dict[str, set[str]]:
    """Module -> the files of a folder that import it; neither the standard library nor our own."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for name, _ in imports(ast.parse(path.read_text())):
            if name not in sys.stdlib_module_names and not (ROOT / name).is_dir():
                found.setdefault(name, set()).add(path.relative_to(ROOT / folder).as_posix())
    return found


def declared_modules(*, extras: bool) -> set[str]:
    """What an installation can import: of the package alone, or of its extras."""
    return {
        module_of(one.name) for one in DECLARED if one.extra not in (DEV, "build") and (one.extra is not None) == extras
    }


def test_everything_that_the_package_imports_is_declared() -> None:
    undeclared = set(foreign("alexnet_deploy")) - declared_modules(extras=False) - declared_modules(extras=True)
    assert not undeclared, {name: foreign("alexnet_deploy")[name] for name in undeclared}


def test_everything_that_the_package_declares_is_imported() -> None:
    used = set(foreign("alexnet_deploy"))
    idle = {
        one.name
        for one in DECLARED
        if one.extra not in (DEV, "build") and module_of(one.name) not in used and one.name not in FOR_OTHERS
    }
    # Modules that are imported by their name, through `require`.
    assert idle <= {canonicalize_name(distribution) for distribution, _ in _EXTRAS.values()}


def test_everything_that_developers_get_is_used() -> None:
    used = set(foreign("tests")) | set(foreign("tools"))
    named = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py")) + (ROOT / "Makefile").read_text()
    for one in DECLARED:
        if one.extra == DEV:
            module = module_of(one.name)
            assert (
                module in used or re.search(rf'"{module}"|from {module} import', named) or f"$(BIN)/{one.name}" in named
            ), one.name


def test_what_tests_and_tools_import_is_declared() -> None:
    known = {module_of(one.name) for one in DECLARED}
    # In environments of their own, which benchmarks/peer_environments.py makes.
    peers = {"nncf", "modelopt"}
    # benchmarks/data_loading.py measures them beside Pillow where they are installed, and leaves them out otherwise.
    decoders = {"cv2", "simplejpeg"}
    assert not (set(foreign("tests")) | set(foreign("tools")) | set(foreign("benchmarks"))) - known - peers - decoders


def test_optional_packages_are_those_of_optional_py() -> None:
    by_extra = {
        (one.name, one.extra) for one in DECLARED if one.extra not in (None, DEV, "build") and one.extra != "plugin"
    }
    assert {(canonicalize_name(distribution), extra) for distribution, extra in _EXTRAS.values()} == by_extra | {
        ("triton", "plugin")
    }


def test_an_optional_package_is_asked_for_before_it_is_imported() -> None:
    optional = declared_modules(extras=True) - declared_modules(extras=False)
    for path in sorted((ROOT / "alexnet_deploy").rglob("*.py")):
        source = path.read_text()
        wanted = {name for name, _ in imports(ast.parse(source))} & optional
        for name in wanted - ASKED_ELSEWHERE.get(path.relative_to(ROOT / "alexnet_deploy").as_posix(), set()):
            assert re.search(rf'require\("{name}[."]', source), f"{path} imports {name} without require"


@pytest.mark.parametrize("name", sorted(FOR_OTHERS))
def test_what_is_there_for_others_is_used_by_them(name: str) -> None:
    if name == "onnxscript":
        folder = Path(torch.onnx.__file__).parent
        assert any("onnxscript" in path.read_text() for path in folder.rglob("*.py"))
    else:
        assert f"$(BIN)/{name}" in (ROOT / "Makefile").read_text()


def test_module_names_are_those_of_the_installed_distributions() -> None:
    owners, environment = metadata.packages_distributions(), installed()
    for one in DECLARED:
        # NVIDIA's front package has no module: the one that it requires does.
        if one.name in environment and one.name not in FOR_OTHERS and one.extra != "build":
            names = {canonicalize_name(owner) for owner in owners[module_of(one.name)]}
            assert one.name in names or any(name.startswith(f"{one.name}-") for name in names)


def test_this_environment_is_within_the_bounds() -> None:
    assert [str(one) for one in requirement_findings(DECLARED, installed())] == []


def tried() -> list[Dependency]:
    return [one for one in DECLARED if one.applies and one.name not in NOT_TRIED and one.extra != "build"]


@pytest.mark.parametrize("path", [MEASURED, LOWEST], ids=lambda path: path.stem)
def test_constraints_are_within_the_bounds_and_name_everything(path: Path) -> None:
    pins = pins_from_text(path.read_text())
    for one in tried():
        assert one.admits(pins[one.name]), f"{path.name} has {one.name} {pins[one.name]}, not {one.requirement}"


@pytest.mark.parametrize("path", [MEASURED, LOWEST], ids=lambda path: path.stem)
def test_constraints_are_names_and_versions_alone(path: Path) -> None:
    head, *lines = path.read_text().splitlines()
    assert re.fullmatch(r"# CPython 3\.11\.\d+, Linux x86_64; \d+ packages\.", head)
    names = [line.partition("==")[0] for line in lines]
    assert int(head.split()[-2]) == len(lines) and names == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)


def test_every_lower_bound_is_the_version_that_was_tried() -> None:
    pins = pins_from_text(LOWEST.read_text())
    assert {one.name: str(one.lower) for one in tried()} == {one.name: str(pins[one.name]) for one in tried()}


def test_no_upper_bound_is_more_than_one_step_above_what_was_tried() -> None:
    pins = pins_from_text(MEASURED.read_text())
    for one in tried():
        if one.upper is not None:
            high, upper = pins[one.name].release, one.upper.release
            steps = {(high[0] + 1,), (*high[:1], high[1] + 1)}
            assert upper in steps, f"{one.requirement}, and {pins[one.name]} is the highest that was tried"


def test_the_recorded_figures_were_measured_with_the_constraints() -> None:
    environment = json.loads((ROOT / "benchmarks" / "results" / "main-job.json").read_text())["environment"]
    pins = pins_from_text(MEASURED.read_text())
    measured = {canonicalize_name(name): version for name, version in environment["packages"].items()}
    del measured[canonicalize_name("alexnet-deploy")]
    assert {name: Version(version) for name, version in measured.items()} == {name: pins[name] for name in measured}
    assert MEASURED.read_text().startswith(f"# CPython {environment['python']}, {environment['system']};")


def test_python_versions_agree() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert named and all(version in SpecifierSet(project["requires-python"]) for version in named)
    assert document["tool"]["ruff"]["target-version"] == "py" + named[0].replace(".", "")
    assert document["tool"]["mypy"]["python_version"] == named[0]
    assert Version(platform.python_version()) in SpecifierSet(project["requires-python"])
