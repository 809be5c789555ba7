"""Writes `LRN` nodes in the form that a target runs fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import GraphError
from alexnet_deploy.graph import add_initializer
from alexnet_deploy.specs import LrnSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray


def spec_of(node: ir.Node) -> LrnSpec:
    """Reads the attributes of an `LRN` node, with ONNX's defaults."""
    values = {name: node.attributes.get(name) for name in ("size", "alpha", "beta", "bias")}
    if values["size"] is None:
        raise GraphError(f"the LRN node {node.name} has no size")
    return LrnSpec(
        size=values["size"].as_int(),
        alpha=1e-4 if values["alpha"] is None else _decimal(values["alpha"].as_float()),
        beta=0.75 if values["beta"] is None else _decimal(values["beta"].as_float()),
        bias=1.0 if values["bias"] is None else _decimal(values["bias"].as_float()),
    )


def _decimal(value: float) -> float:
    """ONNX attributes are FP32: the shortest decimal that rounds to the same FP32 number."""
    return float(str(np.float32(value)))


def lrn_nodes(model: ir.Model) -> list[ir.Node]:
    """The `LRN` nodes of the main graph, in order."""
    return [node for node in model.graph if node.op_type == "LRN" and node.domain in ("", "ai.onnx")]


def band_weights(channels: int, spec: LrnSpec) -> NDArray[np.float32]:
    """`(C, C, 1, 1)`: `alpha / size` where the column is in the row's window (ONNX's window)."""
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    inside = (offset >= -((spec.size - 1) // 2)) & (offset <= spec.size // 2)
    return (inside * np.float32(spec.alpha / spec.size)).astype(np.float32)[:, :, None, None]


def lower_to_banded(model: ir.Model) -> int:
    """Replaces every `LRN` by a 1x1 convolution over the squares and roots, in place.

    `s = bias + band @ x**2`, then `y = x / (sqrt(s) * sqrt(sqrt(s)))` for beta = 0.75 and `x / s**beta` otherwise.
    A GEMM and square roots vectorize; ONNX Runtime's own CPU kernel calls a scalar pow per element.

    Requires: four dimensions and a known channel count.
    Ensures: equal to 7e-7 relative in FP32. A NaN spreads to all the channels of its pixel.

    Returns:
        How many were replaced.

    Raises:
        GraphError: A channel count is not known.
    """
    import onnx_ir as ir

    nodes = lrn_nodes(model)
    for node in nodes:
        x, output = node.inputs[0], node.outputs[0]
        channels = x.shape[1] if x is not None and x.shape is not None and len(x.shape) == 4 else None
        if x is None or not isinstance(channels, int):
            raise GraphError(
                f"the LRN node {node.name} cannot be banded",
                got=f"input shape {x.shape if x is not None else None}",
                expected="four dimensions and a known channel count",
            )
        new = _banded_nodes(model, node, x, channels)
        new[-1].outputs[0].name = output.name
        new[-1].outputs[0].shape, new[-1].outputs[0].type = output.shape, output.type
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], new, [output], new[-1].outputs)
    return len(nodes)


def _banded_nodes(model: ir.Model, node: ir.Node, x: ir.Value, channels: int) -> list[ir.Node]:
    import onnx_ir as ir

    spec, name = spec_of(node), node.name or str(node.outputs[0].name)

    def constant(suffix: str, array: NDArray[np.float32]) -> ir.Value:
        return add_initializer(model, f"{name}.{suffix}", array)

    nodes: list[ir.Node] = []

    def step(op: str, *inputs: ir.Value, suffix: str) -> ir.Value:
        made = ir.node(op, list(inputs), name=f"{name}.{suffix}" if suffix else name)
        made.outputs[0].name = f"{name}.{suffix}"
        made.outputs[0].dtype, made.outputs[0].shape = ir.DataType.FLOAT, x.shape
        nodes.append(made)
        return made.outputs[0]

    squares = step("Mul", x, x, suffix="squares")
    bias = np.full(channels, spec.bias, np.float32)
    band = constant("band", band_weights(channels, spec))
    sums = step("Conv", squares, band, constant("bias", bias), suffix="sums")
    if spec.beta == 0.75:
        root = step("Sqrt", sums, suffix="root")
        power = step("Mul", root, step("Sqrt", root, suffix="fourth_root"), suffix="power")
    else:
        power = step("Pow", sums, constant("beta", np.asarray(spec.beta, np.float32)), suffix="power")
    step("Div", x, power, suffix="")
    return nodes
