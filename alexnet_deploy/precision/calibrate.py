"""From images to a calibration table: streams batches through the FP32 graph and keeps ranges only."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.data.batches import Skipped, batches
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import GraphError
from alexnet_deploy.export import lowered
from alexnet_deploy.graph import copy_of, graph_bytes, weighted_nodes
from alexnet_deploy.precision.table import CalibrationTable, Range
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.specs import Lowering, Preprocessing

if TYPE_CHECKING:
    import onnx_ir as ir

# Memory for the extra outputs grows with it: 16 images keep the whole run near 1 GB for AlexNet.
CALIBRATION_BATCH = 16
METHOD = "max"


def calibrated_values(model: ir.Model) -> list[str]:
    """Names of the activations that some target quantizes: what every weighted layer reads, and what it gives
    after its ReLU."""
    names: dict[str, None] = {}
    for layer in weighted_nodes(model):
        names[str(layer.activation.name)] = None
        names[str(result_of(layer.node).name)] = None
    return list(names)


def result_of(node: ir.Node) -> ir.Value:
    """The output of a layer, or that of the ReLU which alone reads it."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Relu":
        return uses[0].node.outputs[0]
    return output


def table_from_images(
    model: ir.Model,
    source: ImageSource,
    preprocessing: Preprocessing,
    graph_sha256: str,
    *,
    skipped: Skipped | None = None,
    voice: Voice = SILENT,
) -> CalibrationTable:
    """Calibrates: memory does not grow with the number of images.

    Args:
        model: The FP32 graph with standard `LRN` nodes.
        source: The calibration images.
        preprocessing: That of the model.
        graph_sha256: Hash of the graph's file.
        skipped: Where to note damaged images; None makes the first one an error.
        voice: Shows a progress bar.

    Raises:
        GraphError: An activation is not finite.
    """
    import onnxruntime

    wanted = calibrated_values(model)
    session = onnxruntime.InferenceSession(
        graph_bytes(_with_outputs(model, wanted)), _quiet_options(), providers=["CPUExecutionProvider"]
    )
    image_name = session.get_inputs()[0].name
    low = dict.fromkeys(wanted, np.inf)
    high = dict.fromkeys(wanted, -np.inf)
    hashes = []
    with voice.track("calibrate", len(source)) as track:
        for batch in batches(source, CALIBRATION_BATCH, preprocessing, skipped=skipped):
            for name, array in zip(wanted, session.run(wanted, {image_name: batch.images}), strict=True):
                smallest, largest = float(array.min()), float(array.max())
                low[name], high[name] = min(low[name], smallest), max(high[name], largest)
                if not np.isfinite(smallest) or not np.isfinite(largest):
                    raise GraphError(
                        f"the activation {name} is not finite",
                        got=f"{smallest} to {largest}",
                        remedy="check the weights for NaN and overflow with `alexnet-deploy inspect`",
                    )
            hashes += [source.content_hash(int(index)) for index in batch.indices]
            track.advance(len(batch.indices))
    return CalibrationTable(
        method=METHOD,
        tensors={name: Range(minimum=low[name], maximum=high[name]) for name in wanted},
        graph_sha256=graph_sha256,
        preprocessing=preprocessing.fingerprint,
        images=len(hashes),
        images_sha256=hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest(),
    )


def _with_outputs(model: ir.Model, names: list[str]) -> ir.Model:
    """The banded form, which runs fastest here, with the named values as outputs; its input is one too."""
    import onnx_ir as ir

    copy = copy_of(lowered(model, Lowering.BANDED))
    values = {value.name: value for node in copy.graph for value in node.outputs}
    present = {value.name for value in copy.graph.outputs}
    for name in names:
        if name in values and name not in present:
            value = values[name]
            value.dtype = ir.DataType.FLOAT
            copy.graph.outputs.append(value)
        elif name == copy.graph.inputs[0].name:
            copy.graph.outputs.append(copy.graph.inputs[0])
    return copy


def _quiet_options() -> object:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options
