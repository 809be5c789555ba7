"""Every implementation of Local Response Normalization that is held against the oracle, each as a function."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.lrn.lowering import lower_to_banded
from alexnet_deploy.lrn.module import LocalResponseNorm
from alexnet_deploy.lrn.node import lower_to_plugin
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.specs import LrnSpec

Array = NDArray[np.floating]
Window = Literal["onnx", "torch"]
Shape = tuple[int, int, int, int]
Runner = Callable[[Array], Array]
OPSET = 18
POOL_KERNEL, POOL_STRIDE = 3, 2
_THREADS = 2
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One way to compute the norm.

    Attributes:
        name: As in the table.
        ours: Whether the bounds are promised; of the others it is recorded what they do.
        run: `(N, C, H, W)` in float32 or float16 to the same type.
        window: Where an even window is longer: ONNX's reaches one channel further up, torch's one further down.
        pooled: Whether a 3x3 stride-2 max pool is part of it.
        nan: What it promises of a NaN: it stays in the `window`, spreads over its `pixel`'s channels, or is `lost`.
        slow: Whether it is asked the main cases alone.
        needs: An optional package.
        note: For the table.
    """

    name: str
    ours: bool
    run: Callable[[Array, LrnSpec], Array]
    window: Window = "onnx"
    pooled: bool = False
    nan: Literal["window", "pixel", "lost"] = "window"
    slow: bool = False
    needs: str = ""
    note: str = ""


def expected(x: Array, spec: LrnSpec, implementation: Implementation) -> NDArray[np.float64]:
    """The oracle with the window and the pool of an implementation.

    An even window of torch's is ONNX's seen from the last channel.
    """
    backwards = implementation.window == "torch"
    y = lrn_reference(x[:, ::-1], spec)[:, ::-1] if backwards else lrn_reference(x, spec)
    return _max_pooled(y) if implementation.pooled else y


def _max_pooled(y: NDArray[np.float64]) -> NDArray[np.float64]:
    windows = np.lib.stride_tricks.sliding_window_view(y, (POOL_KERNEL, POOL_KERNEL), axis=(2, 3))
    result: NDArray[np.float64] = windows[:, :, ::POOL_STRIDE, ::POOL_STRIDE].max(axis=(4, 5))
    return result


def versions() -> dict[str, str]:
    """Of the packages that compute; ONNX Runtime goes by several names."""
    found: dict[str, str] = {}
    for name, distributions in (
        ("torch", ("torch",)),
        ("onnx", ("onnx",)),
        ("onnxruntime", ("onnxruntime-gpu", "onnxruntime")),
        ("openvino", ("openvino",)),
        ("triton", ("triton",)),
    ):
        for distribution in distributions:
            with contextlib.suppress(PackageNotFoundError):
                found.setdefault(name, version(distribution))
    return found


# Graphs: what an implementation reads for a constant shape and type.


def lrn_graph(spec: LrnSpec, shape: Shape, dtype: str, *, in_fp32: bool, pooled: bool = False) -> onnx.ModelProto:
    """A graph of one `LRN` from `x` to `y`.

    Args:
        spec: The node's attributes.
        shape: Of `x`.
        dtype: Of `x` and `y`.
        in_fp32: Whether a float16 graph casts around the norm, as `half_from_fp32` writes it.
        pooled: Whether a 3x3 stride-2 max pool reads the norm.
    """
    narrow = in_fp32 and dtype == "float16"
    attributes = {"size": spec.size, "alpha": spec.alpha, "beta": spec.beta, "bias": spec.bias}
    nodes = []
    value = "x"

    def step(op: str, name: str, **given: Any) -> None:
        nonlocal value
        nodes.append(helper.make_node(op, [value], [name], name=name, **given))
        value = name

    if narrow:
        step("Cast", "wide", to=TensorProto.FLOAT)
    step("LRN", "norm1", **attributes)
    if narrow:
        step("Cast", "half", to=TensorProto.FLOAT16)
    if pooled:
        step("MaxPool", "pool1", kernel_shape=[POOL_KERNEL] * 2, strides=[POOL_STRIDE] * 2)
    nodes[-1].output[0] = "y"
    x = helper.make_tensor_value_info("x", _TYPES[dtype], shape)
    y = helper.make_tensor_value_info("y", _TYPES[dtype], None)
    graph = helper.make_graph(nodes, "lrn", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def native(spec: LrnSpec, shape: Shape, dtype: str) -> bytes:
    """The standard node alone, in the type of its input."""
    data: bytes = lrn_graph(spec, shape, dtype, in_fp32=False).SerializeToString()
    return data


def banded(spec: LrnSpec, shape: Shape, dtype: str, **options: bool) -> bytes:
    """`lower_to_banded` with its options."""
    model = ir.from_proto(lrn_graph(spec, shape, dtype, in_fp32=True))
    assert lower_to_banded(model, **options) == 1
    return graph_bytes(model)


def banded_channels_last(spec: LrnSpec, shape: Shape, dtype: str) -> bytes:
    """`lower_to_banded(..., channels_last=True)`."""
    return banded(spec, shape, dtype, channels_last=True)


def banded_contained(spec: LrnSpec, shape: Shape, dtype: str) -> bytes:
    """`lower_to_banded(..., contain_nan=True)`."""
    return banded(spec, shape, dtype, contain_nan=True)


def plugin(spec: LrnSpec, shape: Shape, dtype: str, *, pooled: bool = False) -> bytes:
    """`lower_to_plugin`, which carries the function body."""
    model = ir.from_proto(lrn_graph(spec, shape, dtype, in_fp32=True, pooled=pooled))
    assert lower_to_plugin(model) == 1
    return graph_bytes(model)


def plugin_pooled(spec: LrnSpec, shape: Shape, dtype: str) -> bytes:
    """The plugin's node with the max pool in it."""
    return plugin(spec, shape, dtype, pooled=True)


def plugin_inlined(spec: LrnSpec, shape: Shape, dtype: str) -> bytes:
    """The function body in the node's place, for readers that know no functions."""
    from onnx import inliner

    data: bytes = inliner.inline_local_functions(onnx.load_from_string(plugin(spec, shape, dtype))).SerializeToString()
    return data


def decomposed(spec: LrnSpec, shape: Shape, dtype: str, *, dynamo: bool = True) -> bytes:
    """What torch's exporter writes for `nn.LocalResponseNorm`."""
    x = torch.zeros(shape, dtype=getattr(torch, dtype))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        # Both exporters warn of themselves, and of what they import.
        warnings.simplefilter("ignore")
        path = Path(folder) / "lrn.onnx"
        options: dict[str, Any] = {"external_data": False} if dynamo else {}
        torch.onnx.export(
            torchs_module(spec),
            (x,),
            str(path),
            dynamo=dynamo,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["y"],
            verbose=False,
            **options,
        )
        return path.read_bytes()


def decomposed_by_torchscript(spec: LrnSpec, shape: Shape, dtype: str) -> bytes:
    """The same of the older exporter."""
    return decomposed(spec, shape, dtype, dynamo=False)


# Runtimes: from a graph to a function.


def in_onnxruntime(data: bytes) -> Runner:
    """ONNX Runtime on the CPU as it comes, with its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = _THREADS
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(x: Array) -> Array:
        y: Array = session.run(None, {"x": x})[0]
        return y

    return run


def in_reference(data: bytes) -> Runner:
    """onnx's own evaluator, which does not mind NumPy's warnings of overflow."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_from_string(data))

    def run(x: Array) -> Array:
        with np.errstate(all="ignore"):
            outputs: Any = evaluator.run(None, {"x": x})
        y: Array = outputs[0]
        return y

    return run


@cache
def _openvino() -> Any:
    import openvino

    return openvino.Core()


def in_openvino(data: bytes) -> Runner:
    """OpenVINO on the CPU with the precision that `runtimes/openvino.py` asks for."""
    core = _openvino()
    properties = {"INFERENCE_NUM_THREADS": _THREADS, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(model=data), "CPU", properties).create_infer_request()

    def run(x: Array) -> Array:
        y: Array = np.array(request.infer([x], share_inputs=False, share_outputs=False)[0])
        return y

    return run


@cache
def _session(
    graph: Callable[[LrnSpec, Shape, str], bytes],
    runtime: Callable[[bytes], Runner],
    spec: LrnSpec,
    shape: Shape,
    dtype: str,
) -> Runner:
    return runtime(_graph(graph, spec, shape, dtype))


@cache
def _graph(graph: Callable[[LrnSpec, Shape, str], bytes], spec: LrnSpec, shape: Shape, dtype: str) -> bytes:
    return graph(spec, shape, dtype)


def _through(
    graph: Callable[[LrnSpec, Shape, str], bytes], runtime: Callable[[bytes], Runner]
) -> Callable[[Array, LrnSpec], Array]:
    def run(x: Array, spec: LrnSpec) -> Array:
        n, c, h, w = x.shape
        return _session(graph, runtime, spec, (n, c, h, w), str(x.dtype))(x)

    return run


# torch and Triton.


def torchs_module(spec: LrnSpec) -> nn.LocalResponseNorm:
    """torch's own."""
    return nn.LocalResponseNorm(spec.size, alpha=spec.alpha, beta=spec.beta, k=spec.bias)


def our_module(spec: LrnSpec) -> nn.Module:
    """Ours."""
    return LocalResponseNorm(spec)


def our_module_contained(spec: LrnSpec) -> nn.Module:
    """Ours, with a NaN kept in its window."""
    return LocalResponseNorm(spec, contain_nan=True)


def _in_torch(module: Callable[[LrnSpec], nn.Module]) -> Callable[[Array, LrnSpec], Array]:
    def run(x: Array, spec: LrnSpec) -> Array:
        with torch.no_grad():
            y: Array = module(spec)(torch.from_numpy(x)).numpy()
        return y

    return run


def _in_triton(*, pooled: bool = False, channels_last: bool = False) -> Callable[[Array, LrnSpec], Array]:
    def run(x: Array, spec: LrnSpec) -> Array:
        from alexnet_deploy.lrn.kernel import lrn_on_device
        from alexnet_deploy.lrn.kernel_spec import KernelSpec

        kernel = KernelSpec(lrn=spec, pooled=pooled, channels_last=channels_last)
        # The interpreter computes in NumPy, masked lanes too.
        with np.errstate(all="ignore"):
            y: Array = lrn_on_device(torch.from_numpy(x), kernel).numpy()
        return y

    return run


_POOLED_NAN = "ONNX Runtime's MaxPool passes over a NaN"
IMPLEMENTATIONS = (
    Implementation(
        name="torch `nn.LocalResponseNorm`",
        ours=False,
        window="torch",
        run=_in_torch(torchs_module),
        note="no float16 on the CPU",
    ),
    Implementation(
        name="torch's export, ONNX Runtime",
        ours=False,
        window="torch",
        slow=True,
        run=_through(decomposed, in_onnxruntime),
        note="a float16 export rounds alpha to float16, where 1e-9 is zero",
    ),
    Implementation(
        name="torch's TorchScript export, ONNX Runtime",
        ours=False,
        window="torch",
        run=_through(decomposed_by_torchscript, in_onnxruntime),
        note="the exporter runs the module: no float16",
    ),
    Implementation(
        name="ONNX `LRN`, ONNX Runtime",
        ours=False,
        run=_through(native, in_onnxruntime),
        note="takes odd windows only; its sum slides along the channels and keeps the rounding of what has left it",
    ),
    Implementation(
        name="ONNX `LRN`, onnx.reference",
        ours=False,
        run=_through(native, in_reference),
        note="loops over as many channels as there are images: right where N equals C; squares in float16",
    ),
    Implementation(
        name="ONNX `LRN`, OpenVINO",
        ours=False,
        needs="openvino",
        run=_through(native, in_openvino),
        note="sums one channel too few in an even window, without a word",
    ),
    Implementation(name="our torch module", ours=True, window="torch", nan="pixel", run=_in_torch(our_module)),
    Implementation(
        name="our torch module, `contain_nan`", ours=True, window="torch", run=_in_torch(our_module_contained)
    ),
    Implementation(name="banded, ONNX Runtime", ours=True, nan="pixel", run=_through(banded, in_onnxruntime)),
    Implementation(
        name="banded `channels_last`, ONNX Runtime",
        ours=True,
        nan="pixel",
        run=_through(banded_channels_last, in_onnxruntime),
    ),
    Implementation(
        name="banded `contain_nan`, ONNX Runtime", ours=True, run=_through(banded_contained, in_onnxruntime)
    ),
    Implementation(
        name="banded, OpenVINO", ours=True, nan="pixel", needs="openvino", run=_through(banded, in_openvino)
    ),
    Implementation(
        name="banded `contain_nan`, OpenVINO",
        ours=True,
        needs="openvino",
        run=_through(banded_contained, in_openvino),
    ),
    Implementation(name="plugin node's body, ONNX Runtime", ours=True, run=_through(plugin, in_onnxruntime)),
    Implementation(
        name="plugin node's body with pool, ONNX Runtime",
        ours=True,
        pooled=True,
        nan="lost",
        run=_through(plugin_pooled, in_onnxruntime),
        note=_POOLED_NAN,
    ),
    Implementation(
        name="plugin node's body inlined, OpenVINO",
        ours=True,
        needs="openvino",
        run=_through(plugin_inlined, in_openvino),
    ),
    Implementation(name="Triton kernel NCHW, interpreted", ours=True, needs="triton", run=_in_triton()),
    Implementation(
        name="Triton kernel NHWC, interpreted", ours=True, needs="triton", run=_in_triton(channels_last=True)
    ),
    Implementation(
        name="Triton kernel NCHW with pool, interpreted",
        ours=True,
        pooled=True,
        slow=True,
        needs="triton",
        run=_in_triton(pooled=True),
    ),
    Implementation(
        name="Triton kernel NHWC with pool, interpreted",
        ours=True,
        pooled=True,
        slow=True,
        needs="triton",
        run=_in_triton(pooled=True, channels_last=True),
    ),
)
