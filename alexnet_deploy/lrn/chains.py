"""Products `x * s**-beta` in a graph whose `s` is a polynomial of degree two in `x`: what may be a torn LRN.

Found by what is computed, not by how it is written; whether it is an LRN is for `lrn/recovery.py` to prove.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alexnet_deploy.graph import constant_of, decimal_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

DOMAINS = ("", "ai.onnx")
# Linear in the first input; the others say how the values move.
_LINEAR = frozenset({
    "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice", "Pad", "Expand", "Identity", "Neg",
    "AveragePool", "Cast",
})  # fmt: skip
_SUMS, _PRODUCTS = frozenset({"Add", "Sub", "Sum", "Concat"}), frozenset({"Mul", "Conv"})
# What exporters compute shapes with; none depends on anything but its inputs.
_SHAPE_ARITHMETIC = _LINEAR | _SUMS | frozenset({
    "Mul", "Div", "Mod", "Gather", "ConstantOfShape", "Where", "Equal", "Less", "Greater", "Not", "Min", "Max",
    "Floor", "Ceil", "Range",
})  # fmt: skip
_WINDOWS = frozenset({"AveragePool", "Conv", "Slice"})
_MAX_VALUES = 200
# x / sqrt(s) / sqrt(sqrt(s)) is two deep.
_MAX_QUOTIENTS = 3
# In place of a degree: the value depends on shapes.
_SHAPE = -1
_Factors = tuple[tuple["ir.Value", float], ...]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """`output = x * s**-beta`, with `s` a polynomial of degree two in `x`."""

    x: ir.Value
    output: ir.Value
    beta: float
    power_nodes: tuple[ir.Node, ...]
    sums_value: ir.Value
    sums: Polynomial


def chains(output: ir.Value) -> Iterator[Chain]:
    """Every way to read a value as `x * s**-beta`."""
    import onnx_ir as ir

    for x, others, between in _numerators(output):
        if x.dtype not in (None, ir.DataType.FLOAT) or constant(x) is not None:
            continue
        powers: dict[ir.Value, float] = {}
        nodes = dict.fromkeys(between)
        for value, exponent in others:
            _collect_powers(value, exponent, powers, nodes)
        sums_value, exponent = next(iter(powers.items()))
        sums = Polynomial(x)
        if len(powers) > 1 or exponent >= 0 or sums.degree(sums_value) != 2:
            continue
        if any(node.op_type in _WINDOWS for node in sums.nodes):
            beta = decimal_of(-exponent)
            beta = decimal_of(-exponent)
            yield Chain(x=x, output=output, beta=beta, power_nodes=tuple(nodes), sums_value=sums_value, sums=sums)


def _numerators(output: ir.Value) -> Iterator[tuple[ir.Value, _Factors, tuple[ir.Node, ...]]]:
    """Splits a product at each of its factors of exponent one: it, the others with theirs, and the nodes between."""
    pending: list[tuple[ir.Value, _Factors, tuple[ir.Node, ...]]] = [(output, (), ())]
    for _ in range(_MAX_QUOTIENTS):
        splits = []
        for value, others, nodes in pending:
            node = value.producer()
            if node is None or node.op_type not in ("Mul", "Div") or node.domain not in DOMAINS:
                continue
            left, right = node.inputs
            if left is None or right is None:
                continue
            sign = 1.0 if node.op_type == "Mul" else -1.0
            splits.append((left, (*others, (right, sign)), (*nodes, node)))
            if node.op_type == "Mul":
                splits.append((right, (*others, (left, 1.0)), (*nodes, node)))
        yield from splits
        pending = splits


def _collect_powers(
    value: ir.Value, exponent: float, powers: dict[ir.Value, float], nodes: dict[ir.Node, None]
) -> None:
    """Adds up the exponents of what a product is made of; a sum, or a multiple of one, is not taken apart."""
    node = value.producer()
    inside = _factors(node, exponent) if node is not None and node.domain in DOMAINS else ()
    if node is None or not inside:
        powers[value] = powers.get(value, 0.0) + exponent
        return
    nodes[node] = None
    for operand, power in inside:
        _collect_powers(operand, power, powers, nodes)


def _factors(node: ir.Node, exponent: float) -> _Factors:
    inputs = [operand for operand in node.inputs if operand is not None]
    numbers = [_number(operand) for operand in inputs]
    if node.op_type == "Identity":
        return ((inputs[0], exponent),)
    if node.op_type == "Sqrt":
        return ((inputs[0], exponent / 2),)
    if node.op_type == "Reciprocal" or (node.op_type == "Div" and numbers[0] == 1):
        return ((inputs[-1], -exponent),)
    if node.op_type == "Pow" and numbers[1] is not None:
        return ((inputs[0], exponent * numbers[1]),)
    if node.op_type in ("Mul", "Div") and all(constant(operand) is None for operand in inputs):
        return (inputs[0], exponent), (inputs[1], exponent if node.op_type == "Mul" else -exponent)
    return ()


def constant(value: ir.Value) -> NDArray[Any] | None:
    node = value.producer()
    tensor = node.attributes.get("value") if node is not None and node.op_type == "Constant" else None
    if tensor is not None:
        # `constant_of` would name the tensor, and a graph in which nothing is found stays as it is to the byte.
        return tensor.as_tensor().numpy()
    return None if value.is_graph_input() else constant_of(value)


def _number(value: ir.Value | None) -> float | None:
    """A constant that is one number, and adds no dimensions where it is broadcast."""
    array = None if value is None else constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 and array.ndim <= 4 else None


class Polynomial:
    """A value as a polynomial in the values of `x`: its degree, and the nodes that compute it, in order."""

    def __init__(self, x: ir.Value) -> None:
        self.nodes: dict[ir.Node, None] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        # Shape nodes of values that are not computed from `x`: all that the chain may know of the rest of the graph.
        self.foreign_shapes: dict[ir.Node, None] = {}
        self._x = x
        self._degrees: dict[ir.Value, int | None] = {x: 1}

    def degree(self, value: ir.Value | None) -> int | None:
        """0 for a constant, `_SHAPE` for what depends on shapes, None for what is no polynomial of degree up to 2."""
        if value is None:
            return 0
        if value not in self._degrees:
            degree = self._degree(value)
            self._degrees[value] = degree if degree is None or degree <= 2 else None
        return self._degrees[value]

    def _degree(self, value: ir.Value) -> int | None:
        # A branch of an If brings what it declares itself.
        here = value.graph is self._x.graph
        array = constant(value)
        if array is not None:
            self.constants.update({str(value.name): array} if here else {})
            return 0
        node = value.producer()
        if node is None or node.domain not in DOMAINS or len(self._degrees) > _MAX_VALUES:
            return None
        if node.op_type == "Shape" and not self._computes(node.inputs[0]):
            self.foreign_shapes[node] = None
            return _SHAPE if here else None
        degree = self._degree_of_if(node) if node.op_type == "If" else self._degree_of_node(node)
        if degree is not None and here:
            self.nodes[node] = None
        return degree

    def _computes(self, value: ir.Value | None) -> bool:
        return value is None or value is self._x or constant(value) is not None or value.producer() in self.nodes

    def _degree_of_if(self, node: ir.Node) -> int | None:
        """torch writes `squeeze` as an If on the shape of what it squeezes."""
        results = [self.degree(branch.outputs[0]) for branch in branches(node) if len(branch.outputs) == 1]
        degrees = [degree for degree in results if degree is not None and degree >= 0]
        return max(degrees) if len(degrees) == 2 and self.degree(node.inputs[0]) in (0, _SHAPE) else None

    def _degree_of_node(self, node: ir.Node) -> int | None:
        op = node.op_type
        results = [self.degree(operand) for operand in node.inputs]
        degrees = [degree for degree in results if degree is not None]
        if not degrees or len(degrees) < len(results):
            return None
        if op == "Shape":
            return _SHAPE
        first, others = degrees[0], degrees[1:]
        if max(degrees) <= 0:
            return min(degrees) if op in _SHAPE_ARITHMETIC else None
        if op in _LINEAR:
            moves = max(others, default=0) <= 0 and (op != "Pad" or others[1:2] != [_SHAPE])
            return first if moves and (op != "Cast" or _casts_to_float(node)) else None
        if min(degrees) < 0:
            return None
        if op in _SUMS:
            return max(degrees)
        if op in _PRODUCTS:
            return max(first + others[0], *others[1:], 0)
        if op == "Div":
            return first if others[0] == 0 else None
        exponent = _number(node.inputs[1]) if op == "Pow" else None
        return first * int(exponent) if exponent in (1, 2) else None


def _casts_to_float(node: ir.Node) -> bool:
    import onnx_ir as ir

    return node.attributes["to"].as_int() in (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def branches(node: ir.Node) -> list[ir.Graph]:
    return [attribute.as_graph() for attribute in node.attributes.values()] if node.op_type == "If" else []
