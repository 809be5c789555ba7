"""Weights rounded by what the layers read: finds the table's images again and measures on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.graph import weighted_nodes
from alexnet_deploy.pipeline.calibration import table_images
from alexnet_deploy.precision.moments import InputMoments, moments_from_images
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir

# Four times as many change the logits' noise by less than 0.3 dB on AlexNet.
ROUNDING_IMAGES = 64


def moments_of(
    model: ir.Model, info: ModelInfo, table: CalibrationTable, path: Path, *, full: bool, voice: Voice
) -> dict[str, InputMoments]:
    """What the layers of this model read, measured on images of its calibration table.

    Args:
        model: The FP32 graph.
        info: Its description.
        table: Its calibration table.
        path: The table's file, whose passport says where its images came from.
        full: Second moments between all inputs of a layer.
        voice: Shows progress.

    Raises:
        DataError: The images of the table are not at hand.
    """
    source = table_images(table, path, ROUNDING_IMAGES)
    voice.say(f"  rounding weights by what layers read on {len(source)} calibration images")
    return moments_from_images(model, source, info.preprocessing, list(weighted_nodes(model)), full=full, voice=voice)
