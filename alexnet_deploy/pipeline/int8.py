"""The int8 graph of a target, in the variants that the guard and the placement search try."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_deploy import export, graph
from alexnet_deploy.pipeline.lrn_choice import LrnChoice
from alexnet_deploy.precision.half import half_layers
from alexnet_deploy.precision.qdq import DEFAULT_PLACEMENT, Placement, int8_from_fp32
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.weights import Rounding, nearest
from alexnet_deploy.specs import Target
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class Int8Maker:
    """Everything that an int8 graph is made from.

    Attributes:
        model: The FP32 graph.
        info: Its description.
        table: Its calibration table.
        target: Where the graph will run.
        choice: How LRN is written for it.
        rounding: How weights become integers.
        placement: Where the graph quantizes.
    """

    model: ir.Model
    info: ModelInfo
    table: CalibrationTable
    target: Target
    choice: LrnChoice
    rounding: Rounding = nearest
    placement: Placement = DEFAULT_PLACEMENT

    @property
    def layers(self) -> list[str]:
        """Names of the convolutions and fully connected layers."""
        return [layer.name for layer in graph.weighted_nodes(self.model)]

    def graph(self, keep_float: Collection[str] = ()) -> ir.Model:
        """As the target gets it; layers that stay in float are FP16 for TensorRT, FP32 for the CPU."""
        made = int8_from_fp32(
            self.model,
            self.table,
            self.target,
            keep_float=keep_float,
            rounding=self.rounding,
            placement=self.placement,
        )
        if self.target in (Target.TENSORRT, Target.TENSORRT_RTX):
            half_layers(made, keep_float)
        choice = self.choice
        return export.lowered(made, choice.lowering, contain_nan=choice.contain_nan, channels_last=choice.channels_last)
