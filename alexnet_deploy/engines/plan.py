"""What a TensorRT-RTX plan says of itself, read without a GPU: targets, layers, types, weights.

A plan holds its operations as readable text. The format is undocumented and was read off TensorRT-RTX 1.7.1; a
plan that does not look like it is refused rather than guessed at.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from alexnet_deploy.errors import EngineError, PrecisionProofError
from alexnet_deploy.lrn.launch import carried_sms
from alexnet_deploy.lrn.node import NODE, POOLED_NODE
from alexnet_deploy.specs import Precision

MAGIC = b"vtrt"
_SIZE_OFFSET, _MASK_OFFSET = 0x10, 0x20
_SM_BITS = {1: 75, 2: 80, 4: 86, 8: 89, 0x10: 120, 0x20: 121}
_WEIGHTED = {b"corrltn": "conv", b"fully_connected": "linear"}
_TYPES = {
    "float": "fp32",
    "half": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
    "e4m3": "fp8",
    "fp8_e4m3": "fp8",
}
_TENSOR = re.compile(rb"tensor=\{ (?P<body>[^\n]*?)name=\"(?P<name>[^\"]+)\"(?P<rest>[^\n]*?) type=(?P<type>\w+) \}")
_OPERATION = re.compile(rb"\n\s+(?P<kind>corrltn|fully_connected)=\{ name=\"?(?P<name>[^\" ]+)[^\n]*")
_MOVERS = re.compile(rb"\n\s+function=\{ name=__myl_(?:Cast|Repl|Conc|Tran|Resh|Move|Copy)+ ")
# Weights in blocks of INT4 are made FP16 inside the kernel that multiplies by them.
_INT4_WEIGHTS = re.compile(
    rb'\n\s+mul=\{ name="int4_block_dq" output=\{"(?P<out>[^"]+)"[^}]*\} input=\{"(?P<weights>[^"]+)"'
)
_SOURCE = re.compile(rb"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True, kw_only=True)
class PlanLayer:
    """A convolution or fully connected layer of a plan.

    Attributes:
        precision: Of the arithmetic: the wider of activation and weight type; `int4` where that is FP16 and the
            weights are INT4.
        weight_bytes: Bytes of the weight constant as the plan holds it, padding included.
    """

    name: str
    op: str
    precision: str
    weight_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was read off a plan.

    Attributes:
        sms: GPU architectures it holds code for.
        layers: Weighted layers in the order of the plan.
        weight_bytes_by_type: Bytes of all constants, by type.
        reformats: Kernels that only move, cast or reshape data.
        plugins: Nodes that became our LRN plugin, by name of the plugin.
        plugin_sms: The SMs for which each of them carries a kernel.
    """

    sms: tuple[int, ...]
    size_bytes: int
    layers: tuple[PlanLayer, ...]
    weight_bytes_by_type: dict[str, int]
    reformats: int
    plugins: tuple[str, ...] = ()
    plugin_sms: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "sms": [f"sm{sm}" for sm in self.sms],
            "size_bytes": self.size_bytes,
            "layers": [
                {"name": row.name, "op": row.op, "precision": row.precision, "weight_bytes": row.weight_bytes}
                for row in self.layers
            ],
            "weight_bytes_by_type": self.weight_bytes_by_type,
            "reformats": self.reformats,
            "plugins": list(self.plugins),
            "plugin_sms": [f"sm{sm}" for sm in self.plugin_sms],
        }


def read_plan(data: bytes) -> Plan:
    """Reads a TensorRT-RTX plan.

    Raises:
        EngineError: It is not one, is cut short, or holds no weighted layer in the known form.
    """
    if data[:4] != MAGIC or len(data) < _MASK_OFFSET + 4:
        raise EngineError(
            "this is not a TensorRT-RTX engine",
            got=f"{data[:4]!r}, {len(data)} bytes",
            expected=f"it begins with {MAGIC!r}",
        )
    size = struct.unpack_from("<Q", data, _SIZE_OFFSET)[0]
    if size > len(data):
        raise EngineError("the engine is cut short", got=f"{len(data)} bytes", expected=f"{size}")
    mask = struct.unpack_from("<Q", data, _MASK_OFFSET)[0]
    types, payloads, by_type = _tensors(data)
    layers: dict[str, PlanLayer] = {}
    int4 = {match["out"]: match["weights"] for match in _INT4_WEIGHTS.finditer(data)}
    for match in _OPERATION.finditer(data):
        layer = _layer(match, types, payloads, int4)
        layers.setdefault(layer.name, layer)
    if not layers:
        raise EngineError(
            "the engine does not show its layers in the known form",
            remedy="it may come from another version of TensorRT-RTX; this tool knows 1.7",
        )
    return Plan(
        sms=tuple(sm for bit, sm in _SM_BITS.items() if mask & bit),
        size_bytes=len(data),
        layers=tuple(layers.values()),
        weight_bytes_by_type=by_type,
        reformats=len(_MOVERS.findall(data)),
        plugins=_plugins(data),
        plugin_sms=carried_sms(data),
    )


def _plugins(data: bytes) -> tuple[str, ...]:
    """A plugin layer holds its plugin's name behind the name's length; tables of names do not."""
    return tuple(
        name for name in (NODE, POOLED_NODE) for _ in range(data.count(struct.pack("<Q", len(name)) + name.encode()))
    )


def _tensors(data: bytes) -> tuple[dict[bytes, str], dict[bytes, int], dict[str, int]]:
    types: dict[bytes, str] = {}
    payloads: dict[bytes, int] = {}
    by_type: Counter[str] = Counter()
    for match in _TENSOR.finditer(data):
        name, type_ = match["name"], match["type"].decode()
        types[name] = _TYPES.get(type_, type_)
        size = re.search(rb"const_payload_size=(\d+)", match["body"])
        if size and name not in payloads:
            payloads[name] = int(size[1])
            by_type[types[name]] += int(size[1])
    return types, payloads, dict(by_type)


def _layer(
    match: re.Match[bytes], types: dict[bytes, str], payloads: dict[bytes, int], int4: dict[bytes, bytes]
) -> PlanLayer:
    line = match.group(0)
    inputs = re.search(rb"input=\{([^}]*)\}", line)
    names = re.findall(rb'"([^"]+)"', inputs[1]) if inputs else []
    operands = [types.get(name, "unknown") for name in names[:2]]
    sources = [name.decode() for name in _SOURCE.findall(line)]
    own = [name for name in sources if not name.endswith((".quantized", ".dequantized"))]
    name = own[0] if own else re.sub(r"_U\d+$", "", match["name"].decode())
    precision = operands[0] if len(set(operands)) == 1 else "+".join(sorted(set(operands)))
    weight = names[1] if len(names) > 1 else b""
    if weight in int4:
        weight, precision = int4[weight], Precision.INT4.value
    return PlanLayer(
        name=name, op=_WEIGHTED[match["kind"]], precision=precision or "unknown", weight_bytes=payloads.get(weight, 0)
    )


def require_plugins(plan: Plan, expected: int) -> None:
    """Every LRN of the graph is our plugin in the plan, with a kernel for every SM of the engine.

    Raises:
        PrecisionProofError: A norm is missing, or a kernel.
    """
    if len(plan.plugins) != expected or not set(plan.sms) <= set(plan.plugin_sms):
        raise PrecisionProofError(
            "the LRN plugin is not in the engine for every norm and SM",
            got=f"{len(plan.plugins)} norms, kernels for {', '.join(f'sm{sm}' for sm in plan.plugin_sms) or 'no SM'}",
            expected=f"{expected} norms, kernels for {', '.join(f'sm{sm}' for sm in plan.sms)}",
            remedy="report it with the versions that `alexnet-deploy doctor` prints; --lrn native does without",
        )


def require_precision(plan: Plan, precision: str, expected: list[str]) -> None:
    """The precision proof: every weighted layer of the graph is in the plan, in the precision asked for.

    Args:
        plan: What was built.
        precision: What was asked for.
        expected: Names of the graph's convolutions and fully connected layers.

    Raises:
        PrecisionProofError: A layer is missing or has another precision.
    """
    found = {layer.name: layer.precision for layer in plan.layers}
    wrong = {name: found.get(name, "missing") for name in expected if found.get(name) != precision}
    if wrong:
        raise PrecisionProofError(
            f"{len(wrong)} of {len(expected)} layers did not become {precision}",
            got=", ".join(f"{name} {got}" for name, got in wrong.items()),
            expected=f"{precision} for {', '.join(expected)}",
            remedy="leave SM75 out of --sm, or say --allow-float to keep the engine",
        )
