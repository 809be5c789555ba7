"""What a TensorRT-RTX plan says of itself, read without a GPU: targets, layers, types, weights.

A plan holds its operations as readable text. The format is undocumented and was read off TensorRT-RTX 1.7.1; a
plan that does not look like it is refused rather than guessed at.
"""

from __future__ import annotations

import re
import struct
from collections import Counter

from alexnet_deploy.engines.proof import Plan, PlanLayer
from alexnet_deploy.errors import EngineError
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


def read_plan(data: bytes) -> Plan:
    """Reads a TensorRT-RTX plan.

    Raises:
        EngineError: It is not one, is cut short, or does not show its tensors in the known form.
    """
    if data[:4] != MAGIC or len(data) < _MASK_OFFSET + 4:
        raise EngineError(
            "this is not a TensorRT-RTX engine",
            got=f"{data[:4]!r}, {len(data)} bytes",
            expected=f"it begins with {MAGIC!r}",
            remedy="a TensorRT engine shows nothing of itself without its passport",
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
    # A graph without weighted layers has none, but any engine has tensors.
    if not types:
        raise EngineError(
            "the engine does not show its tensors in the known form",
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
