"""Modules import from lower layers only, commands show their help without loading anything heavy."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_deploy
from alexnet_deploy.cli.main import COMMANDS

PACKAGE = Path(alexnet_deploy.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py" and path.parent != PACKAGE / "shipped" and path != PACKAGE / "__init__.py"
)
# From the bottom up. Members of one layer do not import each other; modules of one package do.
LAYERS = (
    ("printable",),
    ("errors",),
    ("limits",),
    ("graph_guard", "weights_guard"),
    ("specs", "machine", "progress", "trt_log", "bench.statistics"),
    ("files",),
    ("variants", "optional", "artifacts", "locks", "interrupts"),
    ("data",),
    ("lrn.oracle", "lrn.module", "lrn.kernel_spec", "lrn.library_name"),
    ("lrn.kernel",),
    ("network",),
    ("weights",),
    ("graph",),
    ("lrn.chains", "lrn.cubin", "lrn.lowering"),
    ("lrn.recovery",),
    ("lrn.node", "lrn.launch"),
    ("lrn.plugin_rtx", "lrn.plugin_tensorrt", "lrn.roofline"),
    ("normalise",),
    ("zoo", "training", "export"),
    ("precision",),
    ("engines", "runtimes"),
    ("bench",),
    ("report",),
    ("inspection", "prediction", "doctor"),
    ("scale",),
    ("pipeline", "serving"),
    ("packaging",),
    ("cli",),
)
LEVEL = {member: level for level, members in enumerate(LAYERS) for member in members}
# An ONNX file is one of the kinds of weights that `load_model` opens; a module that nobody else imports at load time.
LAZY_EXCEPTIONS = {("weights", "zoo")}
HEAVY = (
    "torch", "torchvision", "numpy", "onnx", "onnx_ir", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx",
    "matplotlib", "PIL", "rich", "ray", "pyarrow",
)  # fmt: skip


def unit_of(module: str) -> str:
    """The member of the table that a module belongs to."""
    return module if module in LEVEL else module.split(".")[0]


def imports_of(module: str) -> set[str]:
    """What a module imports from this package, at its top and inside its functions."""
    path = PACKAGE.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            if node.module == "alexnet_deploy":
                found |= {alias.name for alias in node.names if alias.name != "__version__"}
            elif node.module and node.module.startswith("alexnet_deploy."):
                below = node.module.removeprefix("alexnet_deploy.")
                found |= {f"{below}.{a.name}" if f"{below}.{a.name}" in MODULES else below for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("alexnet_deploy.") for a in node.names if a.name.startswith("alexnet_deploy.")
            }
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_lower_layers_only(module: str) -> None:
    if module in ("lrn",):
        assert not imports_of(module)
        return
    own = unit_of(module)
    for imported in imports_of(module):
        other = unit_of(imported)
        allowed = other == own or LEVEL[other] < LEVEL[own] or (own, other) in LAZY_EXCEPTIONS
        assert allowed, f"{module} imports {imported}, which is not below it"


def test_every_module_has_its_place_in_the_layers() -> None:
    assert {unit_of(module) for module in MODULES} - {"lrn"} == set(LEVEL)


def test_the_exceptions_are_imports_inside_functions() -> None:
    for module, other in LAZY_EXCEPTIONS:
        tree = ast.parse((PACKAGE / f"{module}.py").read_text())
        at_the_top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert f"alexnet_deploy.{other}" not in at_the_top
        assert other in imports_of(module)


def test_engines_and_runtimes_never_import_each_other() -> None:
    for module in MODULES:
        package = module.split(".")[0]
        if package in ("engines", "runtimes"):
            other = {"engines": "runtimes", "runtimes": "engines"}[package]
            assert not {name for name in imports_of(module) if name.split(".")[0] == other}, module


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_imported(module: str) -> None:
    assert importlib.import_module(f"alexnet_deploy.{module}").__doc__


def test_help_loads_nothing_heavy() -> None:
    program = f"""
import json, sys
from click.testing import CliRunner
from alexnet_deploy.cli.main import COMMANDS, cli
runs = {{}}
for arguments in [["--help"], *([name, "--help"] for name in COMMANDS)]:
    result = CliRunner().invoke(cli, arguments)
    loaded = sorted(set({HEAVY!r}) & set(sys.modules))
    runs[" ".join(arguments)] = [result.exit_code, "Usage:" in result.output, loaded]
print(json.dumps(runs))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    runs = json.loads(done.stdout)
    assert len(runs) == len(COMMANDS) + 1
    assert runs == {name: [0, True, []] for name in runs}
