"""From the FP32 graph to the one that a target runs: converted, guarded, lowered, compared and proved."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy import export, graph
from alexnet_deploy.machine import tool_versions
from alexnet_deploy.pipeline.fp32 import parity_images
from alexnet_deploy.pipeline.guard import guard_choice
from alexnet_deploy.pipeline.lrn_choice import LrnChoice
from alexnet_deploy.pipeline.workspace import Made
from alexnet_deploy.precision.half import half_from_fp32
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.weights import Rounding, nearest
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.proof import PROVED_TARGETS, layer_precisions, require_integers
from alexnet_deploy.specs import GraphOptions, Precision, Target
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """What to make of an FP32 graph.

    Attributes:
        choice: How LRN is written.
        table: The calibration table, for int8.
        rounding: How its weights become integers.
        options: What may differ.
    """

    precision: Precision
    target: Target
    choice: LrnChoice
    table: CalibrationTable | None
    options: GraphOptions
    rounding: Rounding = nearest


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
