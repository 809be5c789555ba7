"""The plugin for the full TensorRT says what TensorRT asks, against a small stand-in for its modules.

The stand-in keeps to what `tensorrt.plugin` does: descriptors share their shape when they are copied, sides are
expressions that add, subtract, multiply and divide alone, and annotations are read as objects.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.errors import EngineError, MissingDependencyError
from alexnet_deploy.lrn import plugin_tensorrt
from alexnet_deploy.lrn.cubin import kernel_from_spec
from alexnet_deploy.lrn.kernel_spec import KernelSpec
from alexnet_deploy.lrn.node import DOMAIN, NODE, POOLED_NODE
from alexnet_deploy.specs import LrnSpec, Precision

SM = 89
PAPER = LrnSpec(size=5, alpha=1e-4, beta=0.75, bias=2.0)
PLUGINS = {f"{DOMAIN}::{NODE}": False, f"{DOMAIN}::{POOLED_NODE}": True}
both = pytest.mark.parametrize("name", PLUGINS)


class Expr:
    """A side that TensorRT computes with."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __add__(self, other: Expr | int) -> Expr:
        return Expr(self.value + number(other))

    def __sub__(self, other: Expr | int) -> Expr:
        return Expr(self.value - number(other))

    def __mul__(self, other: Expr | int) -> Expr:
        return Expr(self.value * number(other))

    def __floordiv__(self, other: Expr | int) -> Expr:
        return Expr(self.value // number(other))


def number(value: Expr | int) -> int:
    return value.value if isinstance(value, Expr) else value


class ShapeExprs:
    def __init__(self, sides: tuple[Expr | int, ...]) -> None:
        self.sides = [side if isinstance(side, Expr) else Expr(side) for side in sides]

    @classmethod
    def from_tuple(cls, sides: tuple[Expr | int, ...]) -> ShapeExprs:
        return cls(sides)

    def __getitem__(self, axis: int) -> Expr:
        return self.sides[axis]

    def __setitem__(self, axis: int, side: Expr) -> None:
        self.sides[axis] = side

    def __iter__(self) -> Iterator[Expr]:
        return iter(self.sides)

    def __len__(self) -> int:
        return len(self.sides)

    def numbers(self) -> tuple[int, ...]:
        return tuple(side.value for side in self.sides)


class TensorDesc:
    def __init__(self, *sides: int, dtype: str = "HALF") -> None:
        self.shape_expr, self.dtype = ShapeExprs(sides), dtype

    @property
    def ndim(self) -> int:
        return len(self.shape_expr)

    def like(self) -> TensorDesc:
        copy = TensorDesc(dtype=self.dtype)
        copy.shape_expr = self.shape_expr
        return copy


class SymInt32:
    def __init__(self, value: Expr | int) -> None:
        self.value = number(value)


class SymIntExprs:
    def __init__(self, values: list[SymInt32]) -> None:
        assert all(isinstance(value, SymInt32) for value in values)
        self.values = [value.value for value in values]

    @classmethod
    def from_tuple(cls, values: list[SymInt32]) -> SymIntExprs:
        return cls(values)


class KernelLaunchParams:
    def __init__(self) -> None:
        self.grid_x: Expr | int = 1
        self.grid_y, self.grid_z, self.block_x, self.block_y, self.block_z, self.shared_mem = 1, 1, 1, 1, 1, 0


class AutoTuneCombination:
    def __init__(self, io_types: str, layouts: str) -> None:
        self.io_types, self.layouts = io_types, layouts


Registered = dict[str, Callable[..., Any]]
Backend = tuple[ModuleType, dict[str, Registered]]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Stand-ins for `tensorrt` and `tensorrt.plugin`, and what was registered, by decorator and name."""
    trt, trtp = ModuleType("tensorrt"), ModuleType("tensorrt.plugin")
    found: dict[str, Registered] = {"register": {}, "autotune": {}, "aot_impl": {}}

    def decorator(kind: str) -> Callable[[str], Callable[..., Any]]:
        def named(name: str) -> Callable[..., Any]:
            def keep(function: Callable[..., Any]) -> Callable[..., Any]:
                assert name not in found[kind]
                assert kind == "register" or name in found["register"]
                found[kind][name] = function
                return function

            return keep

        return named

    values: dict[str, Any] = {
        "TensorDesc": TensorDesc, "ShapeExprs": ShapeExprs, "SymInt32": SymInt32, "SymIntExprs": SymIntExprs,
        "KernelLaunchParams": KernelLaunchParams, "AutoTuneCombination": AutoTuneCombination,
        "cdiv": lambda left, right: Expr(-(-number(left) // number(right))),
        **{kind: decorator(kind) for kind in found},
    }  # fmt: skip
    for name, value in values.items():
        setattr(trtp, name, value)
    flags = SimpleNamespace(STRONGLY_TYPED=1, PREFER_AOT_PYTHON_PLUGINS=3)
    values = {
        "__version__": "10.9.0", "plugin": trtp, "QuickPluginCreationRequest": object(),
        "float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "NetworkDefinitionCreationFlag": flags,
    }  # fmt: skip
    for name, value in values.items():
        setattr(trt, name, value)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", trtp)
    return trt, found


@pytest.fixture
def found(backend: Backend) -> dict[str, Registered]:
    trt, registered = backend
    plugin_tensorrt.register(trt, SM)
    return registered


def attributes(lrn: LrnSpec = PAPER) -> dict[str, Any]:
    """As the parser hands a node's attributes over."""
    return {
        "size": np.array([lrn.size], np.int32),
        **{name: np.array([getattr(lrn, name)], np.float32) for name in ("alpha", "beta", "bias")},
    }


def test_both_plugins_are_registered_whole_and_once(backend: Backend, found: dict[str, Registered]) -> None:
    assert set(found) == {"register", "autotune", "aot_impl"}
    assert all(set(functions) == set(PLUGINS) for functions in found.values())
    # A second build; a name that is registered twice would not pass the stand-in.
    plugin_tensorrt.register(backend[0], SM)


@both
def test_annotations_are_objects_and_nothing_has_a_default(found: dict[str, Registered], name: str) -> None:
    for functions in found.values():
        signature = inspect.signature(functions[name])
        assert not isinstance(signature.return_annotation, str)
        for parameter in signature.parameters.values():
            assert parameter.default is inspect.Parameter.empty
            assert parameter.annotation is not inspect.Parameter.empty and not isinstance(parameter.annotation, str)
    registered = inspect.signature(found["register"][name])
    assert list(registered.parameters) == ["x", "size", "alpha", "beta", "bias"]
    assert registered.parameters["x"].annotation is TensorDesc is registered.return_annotation
    for attribute, scalar in (("size", np.int32), ("alpha", np.float32), ("beta", np.float32), ("bias", np.float32)):
        annotation = registered.parameters[attribute].annotation
        assert typing.get_origin(annotation) is np.ndarray
        (element,) = typing.get_args(typing.get_args(annotation)[1])
        assert element is scalar


@both
def test_the_other_functions_take_what_was_registered(found: dict[str, Registered], name: str) -> None:
    registered = inspect.signature(found["register"][name]).parameters
    made, tuned = (inspect.signature(found[kind][name]) for kind in ("aot_impl", "autotune"))
    assert list(made.parameters) == [*registered, "outputs", "tactic"]
    assert all(made.parameters[key].annotation == registered[key].annotation for key in registered)
    assert list(tuned.parameters) == ["x", "outputs"]
    for signature in (made, tuned):
        assert signature.parameters["outputs"].annotation == tuple[TensorDesc]
    returned = typing.get_args(made.return_annotation)
    assert returned[2:] == (KernelLaunchParams, SymIntExprs)
    assert all(set(typing.get_args(part)) == {str, bytes} for part in returned[:2])


@both
@pytest.mark.parametrize(
    ("sides", "pooled_sides"), [((1, 96, 55, 55), (27, 27)), ((4, 8, 3, 4), (1, 1)), ((2, 8, 6, 13), (2, 6))]
)
def test_the_output_has_its_own_shape(
    found: dict[str, Registered], name: str, sides: tuple[int, ...], pooled_sides: tuple[int, ...]
) -> None:
    x = TensorDesc(*sides, dtype="BF16")
    y = found["register"][name](x, **attributes())
    assert y.shape_expr.numbers() == (*sides[:2], *(pooled_sides if PLUGINS[name] else sides[2:]))
    assert y.dtype == "BF16"
    assert x.shape_expr.numbers() == sides and y.shape_expr is not x.shape_expr


@both
def test_input_and_output_are_linear_and_of_one_type(found: dict[str, Registered], name: str) -> None:
    (combination,) = found["autotune"][name](TensorDesc(1, 8, 9, 9), (TensorDesc(1, 8, 4, 4),))
    before, after = (part.strip().split("|") for part in combination.io_types.split(","))
    # With bars on both sides, TensorRT pairs the types in their order.
    assert before == after and set(before) == {"FP32", "FP16", "BF16"}
    assert combination.layouts == "LINEAR"


def made(found: dict[str, Registered], name: str, x: TensorDesc, lrn: LrnSpec = PAPER) -> Any:
    y = found["register"][name](x, **attributes(lrn))
    return found["aot_impl"][name](x, **attributes(lrn), outputs=(y,), tactic=0)


@both
@pytest.mark.parametrize("sides", [(1, 96, 55, 55), (16, 256, 27, 27), (3, 17, 5, 7)])
def test_the_kernel_covers_the_output_of_the_whole_batch(
    found: dict[str, Registered], name: str, sides: tuple[int, int, int, int]
) -> None:
    spec = KernelSpec(lrn=PAPER, pooled=PLUGINS[name])
    kernel = kernel_from_spec(spec, Precision.FP16, SM)
    called, ptx, launch, sizes = made(found, name, TensorDesc(*sides))
    assert (called, ptx) == (b"lrn_kernel", kernel.ptx.encode())
    assert number(launch.grid_x) == spec.grid(sides)
    assert (launch.grid_y, launch.grid_z, launch.block_y, launch.block_z) == (1, 1, 1, 1)
    assert (launch.block_x, launch.shared_mem) == (kernel.threads, kernel.shared_bytes)
    assert sizes.values == [*sides[1:], *spec.output_shape(sides)[2:]]


@pytest.mark.parametrize(
    ("dtype", "precision"), [("FLOAT", Precision.FP32), ("HALF", Precision.FP16), ("BF16", Precision.BF16)]
)
def test_the_kernel_is_of_the_tensors_type_and_the_nodes_constants(
    found: dict[str, Registered], dtype: str, precision: Precision
) -> None:
    lrn = LrnSpec(size=4, alpha=1e-3, beta=0.6, bias=1.0)
    _, ptx, _, _ = made(found, f"{DOMAIN}::{NODE}", TensorDesc(1, 8, 9, 9, dtype=dtype), lrn)
    # Decimals as they were written, although attributes are FP32: another constant would be another kernel.
    assert ptx.decode() == kernel_from_spec(KernelSpec(lrn=lrn), precision, SM).ptx


def test_a_type_without_a_kernel_is_refused(found: dict[str, Registered]) -> None:
    with pytest.raises(EngineError, match="no kernel for this type") as caught:
        made(found, f"{DOMAIN}::{NODE}", TensorDesc(1, 8, 9, 9, dtype="INT8"))
    assert caught.value.got == "INT8"


def test_the_network_prefers_kernels_of_ahead_of_time(backend: Backend) -> None:
    assert plugin_tensorrt.creation_flag(backend[0]) == 1 << 3


def test_a_tensorrt_that_is_too_old_is_refused(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, registered = backend
    monkeypatch.delattr(trt, "QuickPluginCreationRequest")
    monkeypatch.setattr(trt, "__version__", "10.3.0")
    with pytest.raises(MissingDependencyError, match="ahead-of-time plugins") as caught:
        plugin_tensorrt.register(trt, SM)
    assert "10.3.0" in str(caught.value.got) and "10.9" in str(caught.value.expected)
    assert caught.value.remedy and "alexnet-deploy[tensorrt]" in caught.value.remedy
    assert not any(registered.values())
