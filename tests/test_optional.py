"""Optional packages are found without importing them, and a missing one is named with the command that brings it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from alexnet_deploy import machine, optional
from alexnet_deploy.errors import InputError, MissingDependencyError
from alexnet_deploy.optional import is_installed, require, require_installed, tensorrt_backend, tensorrt_module
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision

EXTRAS = {
    "openvino": ("openvino", "openvino"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt_rtx": ("tensorrt-rtx", "rtx"),
    "pycuda": ("pycuda", "cuda"),
    "cuda.bindings": ("cuda-bindings", "cuda"),
    "mlperf_loadgen": ("mlcommons-loadgen", "loadgen"),
}


def hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """As if `module` were not installed, for import and for the search."""
    for name in [loaded for loaded in sys.modules if loaded == module or loaded.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == module or name.startswith(f"{module}."):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


@pytest.mark.parametrize("module", ["json", "numpy", "xml.etree"])
def test_what_is_installed_is_found(module: str) -> None:
    assert is_installed(module)


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.inside", "json.no_such_module"])
def test_what_is_not_installed_is_not(module: str) -> None:
    assert not is_installed(module)


def test_looking_for_a_package_does_not_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sqlite3", raising=False)
    assert is_installed("sqlite3")
    assert "sqlite3" not in sys.modules


def test_an_installed_module_is_returned() -> None:
    assert require("json", "a test") is sys.modules["json"]


@pytest.mark.parametrize(("module", "distribution", "extra"), [(m, d, e) for m, (d, e) in EXTRAS.items()])
def test_a_missing_package_is_named_with_its_extra(
    module: str, distribution: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, module)
    assert not is_installed(module)
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        require(module, "the feature of this test")
    assert distribution in caught.value.problem and "the feature of this test" in caught.value.problem
    assert caught.value.remedy == f"pip install 'alexnet-deploy[{extra}]'"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("module", ["ray", "pyarrow"])
def test_what_will_be_missing_is_said_before_any_work(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_installed(module, "a test")
    hide(monkeypatch, module)
    with pytest.raises(MissingDependencyError, match=f"a test needs the package {module}, which is not installed"):
        require_installed(module, "a test")


def test_a_package_that_does_not_load_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr("alexnet_deploy.optional.importlib.import_module", broken)
    monkeypatch.setattr(optional, "is_installed", lambda module: True)
    with pytest.raises(MissingDependencyError, match="does not load") as caught:
        require("tensorrt", "a test")
    assert "libnvinfer" in str(caught.value.got)


def test_a_session_of_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "openvino")
    spec = SessionSpec(runtime="openvino", precision=Precision.FP32, path=Path("x.onnx"), threads=1)
    with pytest.raises(MissingDependencyError, match="openvino") as caught:
        open_session(spec)
    assert caught.value.remedy == "pip install 'alexnet-deploy[openvino]'"


def fake_modules(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        module = ModuleType(name)
        module.Builder = object  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("backend", "installed", "gpus", "expected"),
    [
        ("auto", True, 1, "tensorrt"),
        ("auto", True, 0, "tensorrt-rtx"),
        ("auto", False, 1, "tensorrt-rtx"),
        ("tensorrt", True, 0, "tensorrt"),
        ("tensorrt-rtx", True, 1, "tensorrt-rtx"),
    ],
)
def test_auto_takes_tensorrt_only_where_it_and_a_gpu_are(
    backend: str, installed: bool, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_modules(monkeypatch, "tensorrt", "tensorrt_rtx")
    monkeypatch.setattr(optional, "is_installed", lambda module: module != "tensorrt" or installed)
    monkeypatch.setattr(machine, "count_gpus", lambda: gpus)
    name = tensorrt_backend(backend)
    assert name == expected and tensorrt_module(name) is sys.modules[expected.replace("-", "_")]


def test_auto_takes_tensorrt_rtx_for_gpus_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "is_installed", lambda _module: True)
    monkeypatch.setattr(machine, "count_gpus", lambda: 1)
    assert tensorrt_backend("auto", ahead=True) == "tensorrt-rtx"
    assert tensorrt_backend("tensorrt", ahead=True) == "tensorrt"


@pytest.mark.parametrize("backend", ["", "onnxruntime", "TensorRT", "tensorrt_rtx"])
def test_an_unknown_backend_is_refused_with_the_known_ones(backend: str) -> None:
    with pytest.raises(InputError, match="backend") as caught:
        tensorrt_backend(backend)
    assert str(caught.value.expected) == "auto, tensorrt, tensorrt-rtx"


def test_a_shell_of_tensorrt_without_its_libraries_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(MissingDependencyError, match="libraries are not") as caught:
        tensorrt_module("tensorrt")
    assert caught.value.remedy
