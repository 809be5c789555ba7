"""Which layers a CPU runtime really computes in integers, read off the graph that it made of ours."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import SessionError
from alexnet_deploy.graph_guard import read_proto
from alexnet_deploy.optional import require
from alexnet_deploy.precision.proof import require_layers
from alexnet_deploy.specs import Precision, Target

# What ONNX Runtime's optimizers make of Q/DQ around a layer; anything else computes in float.
_INTEGER_OPS = frozenset({
    "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
})  # fmt: skip
# Optimizers put these behind a node's name when they replace it.
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_quant|_transB\w*)+$")
_OPENVINO_LAYERS = frozenset({"Convolution", "GroupConvolution", "FullyConnected", "MatMul"})
_OPENVINO_TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8"}


def layer_precisions(graph: Path, target: Target, layers: list[str]) -> dict[str, str]:
    """The precision that each layer runs in; float where the runtime shows no integer kernel of that name.

    Args:
        graph: The ONNX file as the target gets it.
        target: `onnxruntime-cpu` or `openvino`.
        layers: Names of the convolutions and fully connected layers.

    Raises:
        SessionError: The runtime cannot load the graph.
        MissingDependencyError: It is not installed.
    """
    found = _onnxruntime(graph) if target is Target.ONNXRUNTIME_CPU else _openvino(graph)
    return {name: found.get(name, Precision.FP32.value) for name in layers}


def require_integers(precisions: dict[str, str], target: Target) -> None:
    """The precision proof of a CPU target.

    Raises:
        PrecisionProofError: A layer does not run in INT8.
    """
    require_layers(
        precisions,
        list(precisions),
        Precision.INT8.value,
        problem=f"do not run in int8 on {target.value}",
        remedy="say --allow-float to keep the graph",
    )


def _onnxruntime(graph: Path) -> dict[str, str]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(optimized)
        try:
            onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # its errors share no base class
            raise SessionError(f"ONNX Runtime cannot load {graph.name}", got=str(exc).split("\n")[0]) from exc
        nodes = read_proto(optimized).graph.node
        return {_SUFFIX.sub("", node.name): Precision.INT8.value for node in nodes if node.op_type in _INTEGER_OPS}


def _openvino(graph: Path) -> dict[str, str]:
    openvino = require("openvino", "the precision proof for openvino")
    core = openvino.Core()
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    try:
        compiled: Any = core.compile_model(core.read_model(str(graph)), "CPU", properties)
    except RuntimeError as exc:
        raise SessionError(f"OpenVINO cannot compile {graph.name}", got=str(exc).strip().split("\n")[0]) from exc
    found = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        if facts["layerType"].astype(str) not in _OPENVINO_LAYERS:
            continue
        precision = str(facts["runtimePrecision"].astype(str)).lower()
        for name in str(facts["originalLayersNames"].astype(str)).split(","):
            # A layer's own name comes first; what its rewrites add stands behind slashes.
            found[name.split("/")[0]] = _OPENVINO_TYPES.get(precision, precision)
    return found
