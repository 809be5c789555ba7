"""From the FP32 graph to the one that a target runs: converted, guarded, lowered, compared and proved."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy import export, graph
from alexnet_deploy.machine import tool_versions
from alexnet_deploy.pipeline.fp32 import parity_images
from alexnet_deploy.pipeline.guard import guard_choice, simulated
from alexnet_deploy.pipeline.lrn_choice import LrnChoice
from alexnet_deploy.pipeline.workspace import Made
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.precision.int4 import int4_from_fp32, linear_layers
from alexnet_deploy.precision.moments import InputMoments
from alexnet_deploy.precision.qdq import float8_from_fp32, float8_layers, int8_from_fp32
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.weights import Rounding, nearest
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.proof import PROVED_TARGETS, layer_precisions, require_integers
from alexnet_deploy.specs import QUANTIZED, GraphOptions, Precision, Target
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """What to make of an FP32 graph.

    Attributes:
        choice: How LRN is written.
        options: What may differ.
        table: The calibration table, for int8, fp8 and int4.
        rounding: How the weights of int8 become integers.
        moments: What layers read, for int4.
    """

    precision: Precision
    target: Target
    choice: LrnChoice
    options: GraphOptions
    table: CalibrationTable | None = None
    rounding: Rounding = nearest
    moments: dict[str, InputMoments] = field(default_factory=dict)


def graph_for_target(model: ir.Model, info: ModelInfo, request: GraphRequest, *, voice: Voice) -> Made:
    """Makes the graph.

    Raises:
        ParityError: It computes something else than its source.
        PrecisionProofError: The target's runtime computes a layer in float that should be int8.
        AccuracyError: The accuracy budget cannot hold.
    """
    precision, choice = request.precision, request.choice
    facts: dict[str, Any] = {
        "model": info.to_json(),
        "precision": precision.value,
        "target": request.target.value,
        **choice.facts(),
    }
    if precision is Precision.INT8:
        converted = _int8(model, info, request, facts, voice)
    elif precision in QUANTIZED:
        converted = _half_around(model, info, request, facts, voice)
    elif precision is Precision.FP32:
        converted = model
    else:
        converted = half_from_fp32(model, precision)
    converted = export.lowered(
        converted, choice.lowering, contain_nan=choice.contain_nan, channels_last=choice.channels_last
    )
    graph.set_info(converted, info)
    if precision in export.PARITY_TOLERANCE:
        images = parity_images(info.preprocessing)
        found = export.parity(
            export.run_onnx(model, images), export.run_onnx(converted, images), export.PARITY_TOLERANCE[precision]
        )
        export.require_parity(found, f"the {precision.value} graph")
        facts["parity"] = found.to_json()
    data = graph.graph_bytes(converted)
    if precision is Precision.INT8 and request.target in PROVED_TARGETS:
        layers = [layer.name for layer in graph.weighted_nodes(model) if layer.name not in facts["keep_float"]]
        facts["proof"] = _proved(data, request, layers, voice)
    return Made(data=data, facts=facts, tools=tool_versions("onnx", "onnx-ir"))


def _int8(model: ir.Model, info: ModelInfo, request: GraphRequest, facts: dict[str, Any], voice: Voice) -> ir.Model:
    table = request.table
    assert table is not None
    keep_float: Collection[str] = ()
    if request.options.max_drop is not None:
        found = guard_choice(
            model, info, table, request.target, request.choice, request.options.max_drop,
            rounding=request.rounding, voice=voice,
        )  # fmt: skip
        facts["guard"], keep_float = found.to_json(), found.keep_float
        voice.say(
            f"  accuracy guard: {100 * found.drop:.2f} points of top-1 lost on {found.images} images (p "
            f"{found.accuracy.p_value:.2f}), at most {100 * found.max_drop:.2f} allowed; in float: "
            f"{', '.join(keep_float) or 'none'}"
        )
    facts |= {
        "calibration_method": table.method.value,
        "rounding": asdict(request.options.rounding),
        "keep_float": list(keep_float),
    }
    return int8_from_fp32(model, table, request.target, keep_float=keep_float, rounding=request.rounding)


def _half_around(
    model: ir.Model, info: ModelInfo, request: GraphRequest, facts: dict[str, Any], voice: Voice
) -> ir.Model:
    """FP8 or INT4 where TensorRT has it, FP16 in all else, and what that costs on the guard images."""
    table, layers = request.table, [layer.name for layer in graph.weighted_nodes(model)]
    assert table is not None
    if request.precision is Precision.FP8:
        able, quantized = float8_layers(model), float8_from_fp32(model, table)
    else:
        able, quantized = linear_layers(model), int4_from_fp32(model, request.moments)
    facts["keep_float"] = [name for name in layers if name not in able]
    found = simulated(model, quantized, info, table, voice=voice)
    facts |= {"calibration_method": table.method.value, "simulated": found.to_json()}
    top1 = "" if found.top1 is None else f"top-1 {100 * found.top1:.2f} %, "
    voice.say(
        f"  {request.precision.value} in {len(able)} of {len(layers)} layers, simulated on guard images: {top1}"
        f"{100 * found.agreement:.2f} % as FP32 (lost {found.lost}, won {found.won}, p {found.p_value:.2f})"
    )
    return half_from_fp32(quantized, Precision.FP16)


def _proved(data: bytes, request: GraphRequest, layers: list[str], voice: Voice) -> dict[str, str]:
    """What the target's runtime makes of each layer that should be int8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(data)
        found = layer_precisions(path, request.target, layers)
    if not request.options.allow_float:
        require_integers(found, request.target)
    proved = sum(precision == Precision.INT8.value for precision in found.values())
    voice.say(f"  precision proof: {proved} of {len(layers)} layers in int8 on {request.target.value}")
    return found
