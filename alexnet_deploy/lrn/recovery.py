"""Puts ONNX's `LRN` node back where an exporter took it apart.

torch writes `x / (k + alpha * avg_pool(pad(x**2)))**beta` as nine nodes, in forms that differ by exporter,
opset and folding. So the match is not on one form: it finds a division whose denominator depends on its
numerator and on constants alone, reads the constants off, and proves the equality on numbers before it
replaces anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.graph import constant_of
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.specs import LrnSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

# What the exporters use between the squares and the division, shape arithmetic included.
_CHAIN_OPS = frozenset({
    "Mul", "Pow", "Reshape", "Unsqueeze", "Squeeze", "Pad", "AveragePool", "Add", "Cast", "Identity",
    "Shape", "Gather", "Concat", "Slice", "Constant", "ConstantOfShape", "Transpose", "Div", "Sub",
})  # fmt: skip
_MAX_CHAIN_NODES = 40
# FP32 graphs against float64: nine operations of rounding each.
_RELATIVE_TOLERANCE = 1e-5
# Large enough that the squares outweigh `bias` in FP32 for alphas down to 1e-6.
_LARGE = 1000.0
# Probes: around 1, where `k` rules the denominator, and well above, where the squares do.
_PROBE_SCALES = (1.0, 30.0, 300.0)


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """One LRN node that was put back."""

    output: str
    spec: LrnSpec
    nodes_replaced: int


def recover_lrn(model: ir.Model) -> list[Recovered]:
    """Replaces every decomposed Local Response Normalization in `model` by an `LRN` node, in place.

    Requires: FP32 chains whose channel count is known (run shape inference first).
    Ensures: the outputs are equal to FP32 rounding, proved on random values per chain; what is not proved stays.

    Returns:
        What was put back; empty where nothing was modified.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    found = []
    for node in list(model.graph):
        if node.op_type != "Div":
            continue
        numerator, denominator = node.inputs
        if numerator is None or denominator is None:
            continue
        chain = _chain(numerator, denominator)
        if chain is None:
            continue
        spec = _spec_from_chain(chain, numerator, denominator)
        if spec is None:
            continue
        lrn = ir.node(
            "LRN",
            [numerator],
            {"size": spec.size, "alpha": spec.alpha, "beta": spec.beta, "bias": spec.bias},
            name=node.name,
        )
        output = node.outputs[0]
        lrn.outputs[0].shape, lrn.outputs[0].type = numerator.shape, numerator.type
        lrn.outputs[0].name = output.name
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [lrn], [output], lrn.outputs)
        found.append(Recovered(output=str(output.name), spec=spec, nodes_replaced=len(chain) + 1))
    if found:
        common.RemoveUnusedNodesPass()(model)
    return found


def _chain(numerator: ir.Value, denominator: ir.Value) -> list[ir.Node] | None:
    """Nodes between numerator and denominator in execution order, or None where anything else feeds them."""
    found: dict[ir.Node, None] = {}
    reached = False

    def visit(value: ir.Value | None) -> bool:
        nonlocal reached
        if value is numerator:
            reached = True
            return True
        if value is None or constant_of(value) is not None:
            return True
        node = value.producer()
        if node is None or node.op_type not in _CHAIN_OPS or node.domain not in ("", "ai.onnx"):
            return False
        if node in found:
            return True
        if len(found) >= _MAX_CHAIN_NODES or not all(visit(parent) for parent in node.inputs):
            return False
        found[node] = None
        return True

    complete = visit(denominator)
    pools = [node for node in found if node.op_type == "AveragePool"]
    return list(found) if complete and reached and len(pools) == 1 else None


def _spec_from_chain(chain: list[ir.Node], numerator: ir.Value, denominator: ir.Value) -> LrnSpec | None:
    """Reads size from the pool and beta from the power, bias and alpha from the values, and checks them all."""
    shape = numerator.shape
    if shape is None or len(shape) < 3 or not all(isinstance(side, int) for side in list(shape)[1:]):
        return None
    sides = [side if isinstance(side, int) else 1 for side in shape]
    kernel = next(node for node in chain if node.op_type == "AveragePool").attributes.get("kernel_shape")
    size = int(np.prod(kernel.as_ints())) if kernel is not None else 0
    exponent = constant_of(chain[-1].inputs[1]) if chain[-1].op_type == "Pow" else None
    if size % 2 == 0 or exponent is None or exponent.size != 1:
        return None
    beta = float(exponent.reshape(()))
    evaluate = _evaluator(chain, numerator, denominator, sides)
    zero = evaluate(np.zeros(sides, np.float32))
    large = evaluate(np.full(sides, _LARGE, np.float32))
    if beta <= 0 or zero is None or large is None or not (zero > 0).all() or not (large > 0).all():
        return None
    bias = float(np.float64(zero.flat[0]) ** (1 / beta))
    # The window of a middle channel is full unless it is wider than all the channels.
    full = min(size, sides[1])
    middle = np.float64(large.max()) ** (1 / beta)
    alpha = (middle - bias) * size / full / _LARGE**2
    if not alpha > 0:
        return None
    short = LrnSpec(size=size, alpha=_rounded(alpha), beta=_rounded(beta), bias=_rounded(bias))
    plain = LrnSpec(size=size, alpha=alpha, beta=beta, bias=bias)
    return next((spec for spec in (short, plain) if _proved(evaluate, sides, spec)), None)


def _rounded(value: float) -> float:
    """The shortest decimal number within what FP32 arithmetic blurs."""
    return next(
        (short for digits in range(1, 8) if abs((short := float(f"{value:.{digits}g}")) - value) <= 3e-6 * abs(value)),
        value,
    )


def _proved(evaluate: _Evaluator, sides: list[int], spec: LrnSpec) -> bool:
    random = np.random.default_rng(0)
    for scale in _PROBE_SCALES:
        x = (random.standard_normal(sides) * scale).astype(np.float32)
        denominator = evaluate(x)
        if denominator is None:
            return False
        expected, got = lrn_reference(x, spec), x / denominator.astype(np.float64)
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=_RELATIVE_TOLERANCE, atol=0):
            return False
    return True


class _Evaluator:
    """Runs the chain alone in ONNX Runtime: numerator in, denominator out; None where it does not run."""

    def __init__(self, data: bytes, name: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._name = name
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32] | None:
        denominator: NDArray[np.float32] = self._session.run(None, {self._name: x})[0]
        return denominator if denominator.shape == x.shape else None


def _evaluator(chain: list[ir.Node], numerator: ir.Value, denominator: ir.Value, sides: list[int]) -> _Evaluator:
    import onnx
    import onnx_ir as ir

    inside = {id(output) for node in chain for output in node.outputs}
    constants = {}
    for node in chain:
        for value in node.inputs:
            if value is not None and value is not numerator and id(value) not in inside:
                array = constant_of(value)
                assert array is not None
                constants[value.name] = onnx.numpy_helper.from_array(array, value.name)
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node) for node in chain],
        "chain",
        [onnx.helper.make_tensor_value_info(str(numerator.name), onnx.TensorProto.FLOAT, sides)],
        [onnx.helper.make_tensor_value_info(str(denominator.name), onnx.TensorProto.FLOAT, None)],
        list(constants.values()),
    )
    graph_owner = chain[0].graph
    opset = graph_owner.opset_imports.get("", 18) if graph_owner is not None else 18
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    return _Evaluator(proto.SerializeToString(), str(numerator.name))
