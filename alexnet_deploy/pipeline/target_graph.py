"""From the FP32 graph to the one that a target runs: converted, guarded, lowered, compared and proved."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy import export, graph
from alexnet_deploy.machine import tool_versions
from alexnet_deploy.pipeline.fp32 import parity_images
from alexnet_deploy.pipeline.guard import GuardSet, guard_choice, require_likeness
from alexnet_deploy.pipeline.int8 import Int8Maker
from alexnet_deploy.pipeline.lrn_choice import LrnChoice
from alexnet_deploy.pipeline.workspace import Made
from alexnet_deploy.precision.findings import NOTES, Finding, Kind, reported
from alexnet_deploy.precision.guard import table_lines
from alexnet_deploy.precision.half import half_from_fp32, half_report
from alexnet_deploy.precision.int4 import int4_from_fp32, linear_layers
from alexnet_deploy.precision.moments import InputMoments
from alexnet_deploy.precision.qdq import DEFAULT_PLACEMENT, Placement, float8_from_fp32, float8_layers
from alexnet_deploy.precision.safety import Activations, noting_clipped, weight_findings
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.weights import Rounding, nearest
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.proof import layer_precisions, require_integers
from alexnet_deploy.specs import CPU_TARGETS, QUANTIZED, GraphOptions, Lowering, Precision, Target
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """What to make of an FP32 graph.

    Attributes:
        choice: How LRN is written.
        options: What may differ.
        table: The calibration table; fp16 and bf16 are checked against it where there is one.
        rounding: How the weights of int8 become integers.
        moments: What layers read, for int4.
        placement: Where int8 quantizes.
    """

    precision: Precision
    target: Target
    choice: LrnChoice
    options: GraphOptions
    table: CalibrationTable | None = None
    rounding: Rounding = nearest
    moments: dict[str, InputMoments] = field(default_factory=dict)
    placement: Placement = DEFAULT_PLACEMENT


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
        # Lowered already: its variants were compared as the target gets them.
        converted = _int8(model, info, request, facts, voice)
    elif precision in QUANTIZED:
        converted = _half_around(model, info, request, facts, voice)
    elif precision is Precision.FP32:
        converted = model
    else:
        facts["half"] = _half_report(model, request, voice)
        converted = half_from_fp32(model, precision)
    if precision is not Precision.INT8:
        converted = export.lowered(
            converted, choice.lowering, contain_nan=choice.contain_nan, channels_last=choice.channels_last
        )
    graph.set_info(converted, info)
    if precision is Precision.FP16:
        facts["safety"] = reported(_half_findings(model, request.table), voice)
    if precision in export.PARITY_TOLERANCE:
        images = parity_images(info.preprocessing)
        found = export.parity(
            export.run_onnx(model, images), export.run_onnx(converted, images), export.PARITY_TOLERANCE[precision]
        )
        export.require_parity(found, f"the {precision.value} graph")
        facts["parity"] = found.to_json()
    data = graph.graph_bytes(converted)
    if precision is Precision.INT8 and request.target in CPU_TARGETS:
        layers = [layer.name for layer in graph.weighted_nodes(model) if layer.name not in facts["keep_float"]]
        facts["proof"] = _proved(data, request, layers, voice)
    return Made(data=data, facts=facts, tools=tool_versions("onnx", "onnx-ir"))


def _half_findings(model: ir.Model, table: CalibrationTable | None) -> list[Finding]:
    """Without those of no consequence in a graph of this tool, and without what FP32 has as well."""
    found = [*weight_findings(model), *([] if table is None else Activations(model, table).half())]
    return [each for each in found if each.kind is not Kind.IDLE and each.kind not in NOTES]


def _half_report(model: ir.Model, request: GraphRequest, voice: Voice) -> dict[str, Any]:
    report = half_report(model, request.precision, request.table)
    largest = report["largest_activation"]
    voice.say(
        f"  {request.precision.value}: {report['underflow']:,} of {report['weights']:,} weights become zero; "
        + (
            f"the largest activation takes {100 * report['share_of_range']:.2g} % of the range"
            if largest
            else "activations are not checked against the range: there is no calibration table"
        )
    )
    return report


def _int8(model: ir.Model, info: ModelInfo, request: GraphRequest, facts: dict[str, Any], voice: Voice) -> ir.Model:
    table = request.table
    assert table is not None
    maker = Int8Maker(
        model=model,
        info=info,
        table=table,
        target=request.target,
        choice=request.choice,
        rounding=request.rounding,
        placement=request.placement,
    )
    keep_float = request.placement.in_float(maker.layers)
    if request.options.max_drop is not None:
        found = guard_choice(maker, request.options.max_drop, voice=voice)
        facts["guard"] = found.to_json()
        keep_float += [name for name in found.keep_float if name not in keep_float]
        for line in table_lines(found):
            voice.say(f"  {line}")
        voice.say(
            f"  accuracy guard: {100 * found.drop:.2f} points of top-1 lost on {found.images} images (p "
            f"{found.accuracy.p_value:.2f}), at most {100 * found.max_drop:.2f} allowed; in float: "
            f"{', '.join(keep_float) or 'none'}"
        )
    if request.options.place:
        voice.say(f"  placement by timing: {request.placement.label}")
    for name, operator, reason in graph.unquantized_nodes(model):
        voice.warn(f"{name} ({operator}) stays in float: {reason}")
    facts |= {
        "calibration_method": table.method.value,
        "rounding": asdict(request.options.rounding),
        "keep_float": keep_float,
    }
    clipped: dict[str, Finding] = {}
    if request.options.rounding.weight_thresholds:
        maker = replace(maker, rounding=noting_clipped(maker.rounding, clipped))
    made = maker.graph(keep_float)
    quantized = {str(node.inputs[0].name) for node in made.graph if node.op_type == "QuantizeLinear" and node.inputs[0]}
    facts["safety"] = reported([*Activations(model, table).int8(quantized), *clipped.values()], voice)
    facts["sqnr_db"] = require_likeness(made, maker, parity_images(info.preprocessing))
    return made


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
    guards = GuardSet(model, info, table, voice)
    found = guards.accuracy(export.lowered(quantized, Lowering.BANDED), request.target)
    assert found.agreement is not None
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
