"""Every name of TensorRT that the code uses is there: in the installed bindings, and in those of TensorRT 10 and 11.

What the code uses is read off its syntax, so that a new call is held against the lists without being added here; the
lists are drawn from the public source of the bindings (`bindings/extract.py`). TensorRT itself installs only where
NVIDIA's index is reachable, so that this is what stands for it.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import alexnet_deploy
from tests.runtimes import stand_in

PACKAGE = Path(alexnet_deploy.__file__).parent
LISTS = sorted((Path(__file__).parent / "bindings").glob("tensorrt-*.json"))
# What an expression is in a file: the class whose member stands behind its dot.
COMMON = {
    "trt.Builder(logger)": "Builder",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "config.get_timing_cache()": "ITimingCache",
    "config.get_timing_cache().serialize()": "IHostMemory",
    "profile": "IOptimizationProfile",
    "image": "ITensor",
    "layer": "ILayer",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "engine.create_engine_inspector()": "EngineInspector",
    "context": "IExecutionContext",
    "registry": "IPluginRegistry",
    "refitter": "Refitter",
    "trt.ILogger": "ILogger",
    "trt.ILogger.Severity": "ILogger.Severity",
}
FILES: dict[str, dict[str, str]] = {
    "engines/build.py": COMMON,
    "engines/config.py": COMMON,
    "engines/parser.py": COMMON,
    "engines/progress.py": COMMON,
    "engines/inspector.py": COMMON,
    "trt_log.py": COMMON,
    # Here a profile is a range of batches, and a configuration one of the runtime's.
    "runtimes/opened_engine.py": {
        **{name: kind for name, kind in COMMON.items() if name not in ("profile", "config")},
        "config": "IRuntimeConfig",
        "parser": "OnnxParserRefitter",
        "parser.get_error(0)": "ParserError",
        "self._engine": "ICudaEngine",
        "self._runtime": "Runtime",
    },
    "runtimes/engine.py": {"context": "IExecutionContext"},
    "lrn/plugin_rtx.py": {**COMMON, "builder": "IExprBuilder"},
}
# What TensorRT-RTX adds.
RTX_ALONE = {
    "ComputeCapability", "EngineValidity", "EngineInvalidityDiagnostics", "DynamicShapesKernelSpecializationStrategy",
    "CudaGraphStrategy", "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability",
    "IRuntimeConfig.cuda_graph_strategy", "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "Runtime.get_engine_validity",
}  # fmt: skip


def used_in(source: str, kinds: dict[str, str]) -> Iterator[str]:
    """`Name` of the module, `Class.member` and `Enum.MEMBER`, as a source uses them."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value).replace("self.trt", "trt")
        if owner in ("trt", "self.trt"):
            if not node.attr.startswith("__"):
                yield node.attr
        elif owner in kinds:
            yield f"{kinds[owner]}.{node.attr}"
        elif owner.startswith("trt.") and not owner.startswith("trt.__") and owner.count(".") == 1 and "(" not in owner:
            yield f"{owner.removeprefix('trt.')}.{node.attr}"


@cache
def used() -> frozenset[str]:
    found = {name for file, kinds in FILES.items() for name in used_in((PACKAGE / file).read_text(), kinds)}
    # Named by text in the code: see `engines/config.py`, `engines/build.py` and `OpenedEngine._port`.
    found |= {f"BuilderFlag.{flag}" for flag in ("VERSION_COMPATIBLE", "REFIT", "REFIT_IDENTICAL", "STRIP_PLAN")}
    found |= {f"HardwareCompatibilityLevel.{level}" for level in ("AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")}
    found |= {"TensorIOMode.INPUT", "TensorIOMode.OUTPUT"}
    return frozenset(name for name in found if not name.endswith(".__members__"))


def in_list(listed: dict[str, Any], name: str) -> bool:
    owner, _, member = name.rpartition(".")
    if not owner:
        tops = {*listed["classes"], *listed["functions"], *listed["constants"], *listed["python"]}
        return member in tops | {enum for enum in listed["enums"] if "." not in enum}
    if owner in listed["enums"]:
        return member in listed["enums"][owner]
    if f"{owner}.{member}" in listed["enums"]:
        return True
    while owner in listed["classes"]:
        if member in listed["classes"][owner]["members"]:
            return True
        owner = next(iter(listed["classes"][owner]["bases"]), "")
    return False


def in_module(module: Any, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def test_the_names_are_found_in_the_code() -> None:
    """A test that reads nothing finds nothing wrong."""
    assert len(used()) > 90
    assert {
        "Builder", "Builder.build_serialized_network", "IBuilderConfig.set_memory_pool_limit",
        "MemoryPoolType.WORKSPACE",
        "OnnxParser.parse", "ParserError.node_name", "ICudaEngine.create_execution_context",
        "IExecutionContext.execute_async_v3", "Runtime.deserialize_cuda_engine", "IPluginRegistry.register_creator",
        "EngineInspector.get_engine_information", "OnnxParserRefitter.refit_from_bytes", "ITimingCache.serialize",
        *RTX_ALONE,
    } <= used()  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_every_file_that_is_read_uses_tensorrt(file: str) -> None:
    assert list(used_in((PACKAGE / file).read_text(), FILES[file]))


def test_every_file_that_is_handed_tensorrt_is_read() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(isinstance(n, ast.Attribute) and ast.unparse(n.value) in ("trt", "self.trt") for n in nodes_of(path))
    }
    # Its `tensorrt.plugin` is no part of these lists; tests/lrn/test_plugin_tensorrt.py holds it against its source.
    assert found - {"lrn/plugin_tensorrt.py"} <= set(FILES)


def nodes_of(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


def test_the_installed_bindings_have_every_name() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert [name for name in sorted(used()) if not in_module(trt, name)] == []


def test_tensorrt_where_it_is_installed_has_every_name() -> None:
    trt = pytest.importorskip("tensorrt")
    if not hasattr(trt, "Builder"):
        pytest.skip("the package without its libraries")
    assert [name for name in sorted(used() - RTX_ALONE) if not in_module(trt, name)] == []


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_tensorrt_has_every_name(path: Path) -> None:
    listed = json.loads(path.read_text())
    assert listed["source"].startswith("https://github.com/NVIDIA/TensorRT") and len(listed["commit"]) == 40
    rtx = {name for name in used() if any(name == alone or name.startswith(f"{alone}.") for alone in RTX_ALONE)}
    assert [name for name in sorted(used() - rtx) if not in_list(listed, name)] == []
    # What is said to be TensorRT-RTX's alone must be so, or a name could hide there.
    assert [name for name in sorted(rtx) if in_list(listed, name)] == []


def test_there_is_a_list_of_each_major_version() -> None:
    assert sorted(path.stem.split("-")[1].split(".")[0] for path in LISTS) == ["10", "11"]


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_what_tensorrt_11_took_away_is_not_used(path: Path) -> None:
    eleven = json.loads(next(p for p in LISTS if "11" in p.stem).read_text())
    for gone in ("BuilderFlag.FP16", "BuilderFlag.INT8", "IBuilderConfig.int8_calibrator", "OnnxParser.supports_model"):
        assert not in_list(eleven, gone) and gone not in used()
    assert in_list(json.loads(path.read_text()), "Builder.create_network")


@pytest.mark.parametrize(
    ("stand", "kind"),
    [
        (stand_in.Engine, "ICudaEngine"),
        (stand_in.ExecutionContext, "IExecutionContext"),
    ],
)
def test_the_stand_ins_have_no_method_that_tensorrt_lacks(stand: type, kind: str) -> None:
    """A test over an invented call would prove nothing."""
    trt = pytest.importorskip("tensorrt_rtx")
    methods = [name for name, _ in inspect.getmembers(stand, inspect.isfunction) if not name.startswith("_")]
    assert methods and [name for name in methods if not hasattr(getattr(trt, kind), name)] == []
