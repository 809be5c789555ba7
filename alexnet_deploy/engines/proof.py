"""The precision proof: what a finished engine says of its layers, held against what was asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from alexnet_deploy.errors import PrecisionProofError
from alexnet_deploy.precision.proof import require_layers


@dataclass(frozen=True, kw_only=True)
class PlanLayer:
    """A convolution or fully connected layer of an engine.

    Attributes:
        precision: Of the arithmetic, as the types of activations and weights say it; `int4` where the weights are INT4
            and the rest FP16. Types that differ, in one kernel or between kernels and profiles, are joined by `+`.
        weight_bytes: Bytes of the weight constant as the engine holds it, padding included.
    """

    name: str
    op: str
    precision: str
    weight_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an engine says of itself.

    Attributes:
        sms: GPU architectures it holds code for.
        layers: Weighted layers in the order of the engine.
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
        counts = Counter(row.precision for row in self.layers)
        return {
            "sms": [f"sm{sm}" for sm in self.sms],
            "size_bytes": self.size_bytes,
            "layers": [
                {"name": row.name, "op": row.op, "precision": row.precision, "weight_bytes": row.weight_bytes}
                for row in self.layers
            ],
            "layers_by_precision": dict(counts),
            "weight_bytes_by_type": self.weight_bytes_by_type,
            "reformats": self.reformats,
            "plugins": list(self.plugins),
            "plugin_sms": [f"sm{sm}" for sm in self.plugin_sms],
        }


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
    require_layers(
        {layer.name: layer.precision for layer in plan.layers},
        expected,
        precision,
        problem=f"did not become {precision}",
        remedy="say --allow-float to keep the engine as it is",
    )
