"""What TensorRT's engine inspector says of an engine, as the same `Plan` that is read off a TensorRT-RTX plan.

The form of its JSON was read off engines of TensorRT 8 to 10 that others published, and off NVIDIA's notes on what
changed in 11; no engine of ours has been inspected, since TensorRT builds on a GPU alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from alexnet_deploy.engines.proof import Plan, PlanLayer
from alexnet_deploy.errors import EngineError
from alexnet_deploy.lrn.node import NODE, POOLED_NODE
from alexnet_deploy.trt_log import first_error, logger_of

_SOURCE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_WEIGHTED = re.compile(r"conv|correlation|gemm|fusion|matrixmultiply", re.IGNORECASE)
# A matrix product of one row may become a kernel that multiplies and sums; any other `kgen` is no product.
_WRITTEN_OUT = re.compile(r"MulSum")
_MOVERS = re.compile(r"reformat|copy|shuffle", re.IGNORECASE)
# What a kernel's name says of its products, whatever type it writes.
_KERNELS = (
    ("int8", re.compile(r"i8i8|i8f32_i8i32|s8s8", re.IGNORECASE)),
    ("tf32", re.compile(r"tf32", re.IGNORECASE)),
    ("fp16", re.compile(r"f16f16|h16816|h1688", re.IGNORECASE)),
    ("bf16", re.compile(r"bf16bf16", re.IGNORECASE)),
)
# Searched in this order: BF16 holds the letters of FP16's names, INT8 those of UINT8's.
_TYPES = (
    ("bf16", re.compile(r"bfloat16|bf16", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|half", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8|e4m3", re.IGNORECASE)),
    ("int8", re.compile(r"(?<!u)int8", re.IGNORECASE)),
    ("int4", re.compile(r"int4", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|float", re.IGNORECASE)),
)
_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "fp8": 1.0, "int4": 0.5}
# What a tensor may hold while the arithmetic is another.
_NARROW = {"int8", "fp8", "int4"}
# How weights are named where they stand among the inputs.
_CONSTANT = re.compile(r"const|weight", re.IGNORECASE)
UNKNOWN = "unknown"


def plan_from_engine(trt: Any, data: bytes, layers: Mapping[str, str], sm: int) -> Plan:
    """Opens an engine that was built a moment ago, on the GPU that built it, and asks it. Built, not run.

    Args:
        trt: TensorRT.
        data: The engine.
        layers: Convolutions and fully connected layers of the network: name to `conv` or `linear`.
        sm: Of the GPU.

    Raises:
        EngineError: TensorRT does not open what it built.
    """
    logger = logger_of(trt)
    runtime = trt.Runtime(logger)
    # The engine was made in this process; a lean runtime inside it is our own.
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError("TensorRT cannot open what it built", got=first_error(logger.lines, "no error was logged"))
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return plan_from_inspection(text, layers, sm, len(data))


def plan_from_inspection(text: str, layers: Mapping[str, str], sm: int, size_bytes: int) -> Plan:
    """Reads the inspector's JSON.

    Args:
        text: As `get_engine_information` gives it.
        layers: Convolutions and fully connected layers of the network: name to `conv` or `linear`.
        sm: Of the GPU that it was built on.
        size_bytes: Of the engine.

    Raises:
        EngineError: It is not JSON, or has layers' names alone.
    """
    try:
        rows = json.loads(text)["Layers"]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("names of layers, without details")
        found: dict[str, PlanLayer] = {}
        by_type: Counter[str] = Counter()
        for row in rows:
            _add(row, layers, found, by_type)
        plugins = tuple(name for row in rows for name in _plugins(row))
        return Plan(
            sms=(sm,),
            size_bytes=size_bytes,
            layers=tuple(found.values()),
            weight_bytes_by_type=dict(by_type),
            reformats=sum(bool(_MOVERS.search(str(row["LayerType"]))) for row in rows),
            plugins=plugins,
            plugin_sms=(sm,) if plugins else (),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise EngineError("the engine inspector's answer cannot be read", got=exc) from exc


def _add(row: dict[str, Any], layers: Mapping[str, str], found: dict[str, PlanLayer], by_type: Counter[str]) -> None:
    if not (_WEIGHTED.search(str(row["LayerType"])) or _WRITTEN_OUT.search(str(row.get("TacticName")))):
        return
    # The separators between the sources vary, and a source may name what was fused in.
    names = [name for name in _SOURCE.findall(str(row.get("Metadata", ""))) if name in layers]
    weights = row.get("Weights") or row.get("ConvWeights") or {}
    type_ = _type_of(weights.get("Type"))
    size = int(_BYTES.get(type_, 0) * int(weights.get("Count", 0)))
    if size:
        by_type[type_] += size
    precision = _precision(row, type_)
    for name in names:
        # A second optimisation profile has kernels of its own for the same layer.
        known = found[name].precision.split("+") if name in found else []
        joined = "+".join(dict.fromkeys([*known, *precision.split("+")]))
        found[name] = PlanLayer(name=name, op=layers[name], precision=joined, weight_bytes=size)


def _precision(row: dict[str, Any], weights: str) -> str:
    """By the types of activations and weights, and by the kernel; where these disagree, all of what they say.

    Where the weights are not listed the kernel has to tell: a narrow tensor may be made wide inside it.
    """
    tactic = str(row.get("TacticName", ""))
    kernel = {next((name for name, pattern in _KERNELS if pattern.search(tactic)), "")} - {""}
    inputs, constants = row.get("Inputs", []), row.get("Constants", [])
    if _WRITTEN_OUT.search(tactic):
        return "+".join(sorted({_tensor_type(tensor) for tensor in [*inputs, *constants]})) or UNKNOWN
    if weights == UNKNOWN:
        among_inputs = [tensor for tensor in inputs if _CONSTANT.search(str(tensor.get("Name")))]
        weights = next((_tensor_type(tensor) for tensor in [*among_inputs, *constants]), UNKNOWN)
    types = {*map(_tensor_type, inputs[:1]), *({weights} - {UNKNOWN}), *kernel}
    if kernel == {"tf32"}:
        types -= {"fp32"}
    alone = weights == UNKNOWN and not kernel
    return UNKNOWN if not types or (alone and types & _NARROW) else "+".join(sorted(types))


def _tensor_type(tensor: dict[str, Any]) -> str:
    """TensorRT 11 has split the field in two."""
    return _type_of(tensor.get("Format/Datatype") or tensor.get("Datatype"))


def _type_of(text: Any) -> str:
    return next((name for name, pattern in _TYPES if pattern.search(str(text))), UNKNOWN)


def _plugins(row: dict[str, Any]) -> list[str]:
    if "plugin" not in str(row["LayerType"]).lower():
        return []
    said = json.dumps(row)
    return [POOLED_NODE if POOLED_NODE in said else NODE] if NODE in said else []
