"""What a TensorRT-RTX plan says of itself, read without a GPU: targets, layers, types, weights.

A plan holds its operations as readable text. The format is undocumented and was read off TensorRT-RTX 1.7.1; a
plan that does not look like it is refused rather than guessed at.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from alexnet_deploy.engines.proof import Plan, PlanLayer
from alexnet_deploy.errors import EngineError
from alexnet_deploy.lrn.launch import carried_sms
from alexnet_deploy.lrn.node import NODE, POOLED_NODE
from alexnet_deploy.precision.proof import MISSING
from alexnet_deploy.specs import RTX_MAGIC, Precision

MAGIC = RTX_MAGIC
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
_TENSOR = re.compile(rb"tensor=\{ (?P<body>[^\n]*?)name=\"(?P<name>[^\"\n]+)\"(?P<rest>[^\n]*?) type=(?P<type>\w+) \}")
# A convolution or matrix product of its own, one that is fused with what stands around it (a second kernel for the same
# layer, chosen when the engine runs), and a product of one row that is written out as a kernel.
_OPERATION = re.compile(
    rb"\n\s+(?P<kind>corrltn|fully_connected|runtime_fusion|function)=\{ name=\"?(?P<name>[^\" ]+)[^\n]*"
)
_FUSED = {"Corr": "conv", "Fc": "linear"}
_WRITTEN_OUT = b"MulSum"
# What a norm gives in FP32 is made narrow in the kernel that reads it.
_CAST_INSIDE = {"fp16+fp32": "fp16", "bf16+fp32": "bf16"}
# A plan has a handful of profiles: a damaged one does not name one of a billion.
_PROFILE = re.compile(rb"\[profile (\d{1,3})\]")
_MOVERS = re.compile(rb"\n\s+function=\{ name=__myl_(?:Cast|Repl|Conc|Tran|Resh|Move|Copy)+ ")
# Weights in blocks of INT4 are made FP16 inside the kernel that multiplies by them.
_INT4_WEIGHTS = re.compile(
    rb'\n\s+mul=\{ name="int4_block_dq" output=\{"(?P<out>[^"]+)"[^}]*\} input=\{"(?P<weights>[^"]+)"'
)
# Names have an end, so that text without closing brackets is not searched through over and over.
_SOURCE = re.compile(rb"\[ONNX Layer: ([^\]\n]{1,1000})\]")


def read_plan(data: bytes, layers: Collection[str] = ()) -> Plan:
    """Reads a TensorRT-RTX plan.

    Args:
        data: The engine.
        layers: Names of the graph's weighted layers, where they are known: a kernel that several layers were fused into
            names them all, and which of them is the product is told by its weights' name otherwise.

    Raises:
        EngineError: It is not one, is cut short, or does not show its tensors in the known form.
    """
    if data[:4] != MAGIC or len(data) < _MASK_OFFSET + 8:
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
    operations = _operations(data, types, payloads, frozenset(layers))
    # A graph without weighted layers has none, but any engine has tensors.
    if not types:
        raise EngineError(
            "the engine does not show its tensors in the known form",
            remedy="it may come from another version of TensorRT-RTX; this tool knows 1.7",
        )
    return Plan(
        sms=tuple(sm for bit, sm in _SM_BITS.items() if mask & bit),
        size_bytes=len(data),
        layers=_merged(operations),
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
    counted: set[tuple[bytes, int, str]] = set()
    for match in _TENSOR.finditer(data):
        name, type_ = match["name"], match["type"].decode()
        types[name] = _TYPES.get(type_, type_)
        size = re.search(rb"const_payload_size=(\d{1,18})", match["body"])
        if size and name not in payloads:
            payloads[name] = int(size[1])
            # Each profile names its constants anew; those at one offset are one constant of the file.
            offset = re.search(rb" offset=(\d+)", match.group(0))
            key = (offset[1] if offset else name, int(size[1]), types[name])
            if key not in counted:
                counted.add(key)
                by_type[types[name]] += int(size[1])
    return types, payloads, dict(by_type)


@dataclass(frozen=True, kw_only=True)
class _Operation:
    profile: int
    layer: PlanLayer


def _operations(
    data: bytes, types: dict[bytes, str], payloads: dict[bytes, int], known: Collection[str]
) -> list[_Operation]:
    """All that computes a weighted layer, profile by profile: their text stands one behind the other."""
    int4 = {match["out"]: match["weights"] for match in _INT4_WEIGHTS.finditer(data)}
    found: list[_Operation] = []
    written_out: list[tuple[int, str, bytes]] = []
    profile = 0
    for match in _OPERATION.finditer(data):
        line, kind = match.group(0), match["kind"]
        profile = max([profile, *(int(number) for number in _PROFILE.findall(line))])
        if kind in _WEIGHTED:
            found.append(_Operation(profile=profile, layer=_layer(match, types, payloads, int4)))
        elif kind == b"runtime_fusion":
            op = next((op for part, op in _FUSED.items() if part.encode() in match["name"]), None)
            if op is not None and (own := _own_sources(line)):
                precision = _precision_of(_arguments(line), types)
                layer = PlanLayer(name=own[0], op=op, precision=precision, weight_bytes=0)
                found.append(_Operation(profile=profile, layer=layer))
        elif _WRITTEN_OUT in match["name"]:
            precision = _precision_of(_arguments(line), types)
            if b"Cast" in match["name"] and precision in _CAST_INSIDE:
                precision = _CAST_INSIDE[precision]
            written_out.append((profile, precision, line))
    for profile, precision, line in written_out:
        has_its_own = {each.layer.name for each in found if each.profile == profile}
        for name, size in _products_of(line, payloads, known):
            if name not in has_its_own:
                layer = PlanLayer(name=name, op="linear", precision=precision, weight_bytes=size)
                found.append(_Operation(profile=profile, layer=layer))
    return found


def _products_of(line: bytes, payloads: dict[bytes, int], known: Collection[str]) -> Iterator[tuple[str, int]]:
    """The layers that a kernel may be the product of, and the bytes of their weights where their name tells them."""
    arguments = _arguments(line)
    for name in _own_sources(line):
        weights = next((argument for argument in arguments if argument.startswith(f"{name}.".encode())), None)
        if name in known or (not known and weights is not None):
            yield name, payloads.get(weights or b"", 0)


def _merged(operations: list[_Operation]) -> tuple[PlanLayer, ...]:
    """One row a layer: where its kernels or profiles differ, or a profile lacks it, the precision says so."""
    profiles = set(range(1 + max((each.profile for each in operations), default=0)))
    rows: dict[str, list[_Operation]] = {}
    for each in operations:
        rows.setdefault(each.layer.name, []).append(each)
    merged = []
    for name, mine in rows.items():
        precisions = {part for each in mine for part in each.layer.precision.split("+")}
        if {each.profile for each in mine} != profiles:
            precisions.add(MISSING)
        size = max(each.layer.weight_bytes for each in mine)
        joined = "+".join(sorted(precisions))
        merged.append(PlanLayer(name=name, op=mine[0].layer.op, precision=joined, weight_bytes=size))
    return tuple(merged)


def _arguments(line: bytes) -> list[bytes]:
    # No brace inside, so that one which is never closed is not looked for from every place anew.
    found = re.search(rb"input(?:_args)?=\{([^{}]*)\}", line)
    return re.findall(rb'"([^"]+)"', found[1]) if found else []


def _own_sources(line: bytes) -> list[str]:
    """The layers that a line was made of, without the quantization around them."""
    sources = [name.decode(errors="replace") for name in _SOURCE.findall(line)]
    return [name for name in sources if not name.endswith((".quantized", ".dequantized"))]


def _precision_of(arguments: list[bytes], types: dict[bytes, str]) -> str:
    """Of a fused kernel: by all that it reads but shapes and indices."""
    found = {types.get(name, "unknown") for name in arguments} - {"int64", "int32"}
    if found == {Precision.INT4.value, Precision.FP16.value}:
        return Precision.INT4.value
    return "+".join(sorted(found)) or "unknown"


def _layer(
    match: re.Match[bytes], types: dict[bytes, str], payloads: dict[bytes, int], int4: dict[bytes, bytes]
) -> PlanLayer:
    line = match.group(0)
    names = _arguments(line)
    operands = [types.get(name, "unknown") for name in names[:2]]
    own = _own_sources(line)
    name = own[0] if own else re.sub(r"_U\d+$", "", match["name"].decode(errors="replace"))
    precision = operands[0] if len(set(operands)) == 1 else "+".join(sorted(set(operands)))
    weight = names[1] if len(names) > 1 else b""
    if weight in int4:
        weight, precision = int4[weight], Precision.INT4.value
    return PlanLayer(
        name=name, op=_WEIGHTED[match["kind"]], precision=precision or "unknown", weight_bytes=payloads.get(weight, 0)
    )
