"""Kernels of a runtime put back on the layers of the network, next to the limit of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_deploy.bench.peaks import Peaks
from alexnet_deploy.bench.roofline import LayerCost, layer_limit
from alexnet_deploy.runtimes.session import KernelTime

# Kernels that move data between the layouts of two layers belong to neither.
_BETWEEN = frozenset({"Reorder", "ReorderInput", "ReorderOutput", "Transpose"})


def profile_from_kernels(
    kernels: Sequence[KernelTime],
    layer_of: Mapping[str, str],
    layers: Sequence[str],
    costs: Sequence[LayerCost],
    batch: int,
    peaks: Peaks | None,
) -> dict[str, Any]:
    """One entry of `profiles` of a bench, without the session.

    Args:
        kernels: As the runtime names them.
        layer_of: Layer by the name of every node of the graph, see `layers_of_nodes`.
        layers: The network's layers in order.
        costs: Of those that have weights.
        batch: Images.
        peaks: The machine's; None leaves the limits out.
    """
    times, other = dict.fromkeys(layers, 0.0), 0.0
    for kernel in kernels:
        layer = None if kernel.op in _BETWEEN else layer_of_kernel(kernel.name, layer_of)
        if layer is None:
            other += kernel.milliseconds
        else:
            times[layer] += kernel.milliseconds
    limits = {cost.name: layer_limit(cost, batch, peaks) for cost in costs} if peaks is not None else {}
    rows = []
    for name, milliseconds in times.items():
        limit = limits.get(name)
        rows.append(
            {
                "name": name,
                "ms": round(milliseconds, 4),
                "limit_ms": round(limit.limit_ms, 4) if limit else None,
                "bound": limit.bound if limit else None,
            }
        )
    total = sum(times.values()) + other
    return {"batch": batch, "total_ms": round(total, 4), "layers": rows, "other_ms": round(other, 4)}


def layer_of_kernel(name: str, layer_of: Mapping[str, str]) -> str | None:
    """The layer of a kernel: its name begins with that of a node, and no letter or digit follows.

    ONNX Runtime writes `fused fc6`, `relu1_nchwc` and `norm1.squares`; OpenVINO `conv1/WithoutBiases`.
    """
    bare = name.removeprefix("fused ")
    fitting = [
        known for known in layer_of if bare.startswith(known) and not bare[len(known) : len(known) + 1].isalnum()
    ]
    return layer_of[max(fitting, key=len)] if fitting else None


def layers_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The layer that every node of a graph belongs to: itself, or for what follows a layer (a ReLU), that layer.

    Args:
        nodes: As `layer_costs` gives them, with the names of their outputs.
    """
    found: dict[str, str] = {}
    layer: str | None = None
    for node in nodes:
        if node["op"] != "other":
            layer = str(node["name"])
        if layer is not None:
            found[str(node["name"])] = layer
            found[str(node["result"])] = layer
    return found
