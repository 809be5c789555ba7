"""Puts ONNX's `LRN` node back where an exporter took it apart.

torch writes `x / (k + alpha * avg_pool(pad(x**2)))**beta` as nine nodes or as forty, in forms that differ by
exporter, opset and folding. So the match is not on one form, and has three steps:

1. A product `x * s**-beta`, whatever powers, roots, quotients and reciprocals it is written with, gives `beta`.
2. The operators between `x` and `s` must make `s` a polynomial of degree two in the values of `x`, with coefficients
   that depend on nothing else (`Polynomial`).
3. On numbers, that polynomial must be `bias + alpha / size * sum(x[i]**2 for i in window)`, and the product the LRN of
   the oracle (`_proved`).

Why this is enough: steps 1 and 2 hold for all values. Two polynomials that differ do so at almost every point, so
values drawn at random tell them apart. How far two that agree there to FP32 rounding can be from each other elsewhere
is bounded, because the values are spread over eight decades around the one at which the squares equal `bias`: every
coefficient, those that have to be zero included, rules the sum somewhere. A kink beyond the range of the values (Abs,
Clip, Max, Relu) cannot be there: no polynomial has one. A shape enters only as an argument of what moves values, and
where height or width is dynamic the proof is made at two of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.lrn.chains import DOMAINS, Chain, branches, chains, constant
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.specs import LrnSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

# Half a dozen roundings in FP32, against float64; what is too small for FP32's full precision is not compared.
_RELATIVE_TOLERANCE, _TINY = 5e-6, 1e-35
# Squares exactly, and outweighs `bias` in FP32 for any alpha down to 1e-10.
_IMPULSE = 2.0**20
_NORMAL_SCALES, _DECADES = (0.1, 1.0, 30.0), 4.0
# (N, H, W) for what is dynamic, small ones first; below a stack of strides and pools only the large ones are images.
_SIZES = ((2, 5, 7), (1, 9, 6), (2, 67, 75), (1, 99, 83), (1, 224, 256), (1, 320, 288))

_Sizes = tuple[int, int, int]
_Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """One LRN node that was put back."""

    output: str
    spec: LrnSpec
    nodes_replaced: int


def recover_lrn(model: ir.Model) -> list[Recovered]:
    """Replaces every decomposed Local Response Normalization of the main graph by an `LRN` node, in place.

    Requires: FP32 chains of four dimensions (ONNX Runtime's `LRN` takes no other) with a channel count that
    shape inference finds. An initializer that is also an input of the graph is not a constant, since the caller may
    feed another; `normalise` takes these off the inputs.
    Ensures: the outputs are equal to FP32 rounding for values whose squares FP32 holds, proved per chain (see the
    module); what is not proved stays.
    Windows of even size stay: torch's are not ONNX's, and ONNX Runtime refuses ONNX's.

    Returns:
        What was put back, in order; empty where nothing was modified.
    """
    from onnx_ir.passes import common

    found: list[Recovered] = []
    # Once more after a success: shape inference sees further through an LRN than through what it was made of.
    while more := _recover_once(model):
        found += more
    if found:
        common.RemoveUnusedNodesPass()(model)
    order = {str(node.outputs[0].name): index for index, node in enumerate(model.graph)}
    # What nothing that is read depended on is gone.
    return sorted((one for one in found if one.output in order), key=lambda one: order[one.output])


def _recover_once(model: ir.Model) -> list[Recovered]:
    found = []
    shapes_at = _shape_inference(model)
    # The last node of a chain comes first: x / sqrt(s) within x / sqrt(s) / sqrt(sqrt(s)) would be an LRN too.
    for node in reversed(list(model.graph)):
        if node.op_type not in ("Div", "Mul") or node.domain not in DOMAINS or not _is_read(node):
            continue
        for chain in chains(node.outputs[0]):
            spec = _spec_of_chain(chain, shapes_at)
            if spec is not None:
                name, nodes = str(node.outputs[0].name), {*chain.sums.nodes, *chain.power_nodes}
                found.append(Recovered(output=name, spec=spec, nodes_replaced=len(nodes)))
                _replace(model, node, chain.x, spec)
                _remove_unread(model, nodes)
                break
    return found


def _is_read(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def _replace(model: ir.Model, node: ir.Node, x: ir.Value, spec: LrnSpec) -> None:
    import onnx_ir as ir

    constants = {"size": spec.size, "alpha": spec.alpha, "beta": spec.beta, "bias": spec.bias}
    lrn = ir.node("LRN", [x], constants, name=node.name)
    output = node.outputs[0]
    lrn.outputs[0].shape, lrn.outputs[0].type = x.shape, x.type
    lrn.outputs[0].name = output.name
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], [lrn], [output], lrn.outputs)


def _remove_unread(model: ir.Model, nodes: set[ir.Node]) -> None:
    for node in [present for present in reversed(model.graph) if present in nodes]:
        if not _is_read(node):
            # onnx_ir's own pass leaves what a branch reads, also after the If is gone.
            for inner in _inner_nodes(node):
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)
            model.graph.remove(node, safe=True)


def _inner_nodes(node: ir.Node) -> list[ir.Node]:
    return [inner for branch in branches(node) for inner in branch]


def _shape_inference(model: ir.Model) -> Callable[[_Sizes], _Shapes]:
    """Returns what infers the shapes that are known at concrete sizes of the graph's inputs, by name."""
    import onnx
    import onnx_ir as ir

    @cache
    def stripped() -> onnx.ModelProto:
        """Shapes do not depend on the weights' values, and inference copies what it is given."""
        proto = ir.to_proto(model)
        graph = proto.graph
        tensors, names = list(graph.initializer), {value.name for value in graph.input}
        del graph.initializer[:], graph.value_info[:]
        graph.initializer.extend(tensor for tensor in tensors if math.prod(tensor.dims) <= 64)
        for tensor in tensors:
            if math.prod(tensor.dims) > 64 and tensor.name not in names:
                graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        return proto

    @cache
    def shapes_at(sizes: _Sizes) -> _Shapes:
        proto = onnx.ModelProto()
        proto.CopyFrom(stripped())
        bound: dict[str, int] = {}
        for value in proto.graph.input:
            for axis, side in enumerate(value.type.tensor_type.shape.dim):
                # The channel count is never guessed.
                if not side.HasField("dim_value") and axis in (0, 2, 3):
                    size = sizes[max(0, axis - 1)]
                    side.dim_value = bound.setdefault(side.dim_param, size) if side.dim_param else size
        graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
        return {
            name: tuple(side.dim_value for side in kind.shape.dim)
            for name, kind in types.items()
            if kind.HasField("shape") and all(side.HasField("dim_value") for side in kind.shape.dim)
        }

    return shapes_at


@np.errstate(all="ignore")
def _spec_of_chain(chain: Chain, shapes_at: Callable[[_Sizes], _Shapes]) -> LrnSpec | None:
    """Reads the constants off at the first size at which the chain runs, and proves them there and at another."""
    specs: list[LrnSpec] | None = None
    proved: set[tuple[int, ...]] = set()
    images: set[tuple[int, ...]] = set()
    run = _Evaluator.of(chain)
    for sizes in _SIZES if run is not None else ():
        shapes = shapes_at(sizes)
        sides = _sides(chain, sizes, shapes)
        images.add(sides[2:])
        if run is None or not sides or sides in proved:
            continue
        at_zero = run(np.zeros(sides, np.float32), shapes)
        # A size at which the chain does not run is no counter-example: nobody can have run the graph with it.
        if at_zero is None:
            continue
        if at_zero[0].shape != sides:
            return None
        if specs is None:
            specs = _specs_read_off(chain, run, float(at_zero[0].flat[0]), sides, shapes)
        specs = [spec for spec in specs if _proved(run, sides, shapes, spec)]
        proved.add(sides)
        if not specs or len(proved) == 2:
            break
    enough = len({sides[2:] for sides in proved}) >= (1 if len(images) == 1 else 2)
    return specs[0] if specs and enough else None


def _sides(chain: Chain, sizes: _Sizes, shapes: _Shapes) -> tuple[int, ...]:
    """The shape of `x` there, empty where unknown; any will do if the chain knows nothing of the rest of the graph."""
    sides = list(chain.x.shape or ())
    if (inferred := shapes.get(str(chain.x.name))) is not None:
        sides = list(inferred)
    elif not chain.sums.foreign_shapes:
        free = dict(zip((0, 2, 3), sizes, strict=True))
        sides = [free.get(axis, side) if not isinstance(side, int) else side for axis, side in enumerate(sides)]
    known = tuple(side for side in sides if isinstance(side, int) and side > 0)
    return known if len(known) == len(sides) == 4 else ()


def _specs_read_off(
    chain: Chain, run: _Evaluator, bias: float, sides: tuple[int, ...], shapes: _Shapes
) -> list[LrnSpec]:
    """The window from what the first and the last channel reach, `alpha` from what the first adds to itself."""
    reached = []
    for channel in (0, -1):
        x = np.zeros(sides, np.float32)
        x[:, channel] = _IMPULSE
        results = run(x, shapes)
        if results is None or results[0].shape != sides:
            return []
        reached.append((results[0][0, :, 0, 0].astype(np.float64) - bias) / _IMPULSE**2)
    share = float(reached[0][0])
    if not 0 < bias < math.inf or not 0 < share < math.inf:
        return []
    below, above = (int((response > share / 2).sum()) - 1 for response in reached)
    size = below + above + 1
    if size == 2 * sides[1] - 1:
        # Windows that reach all channels differ in no value: the pool's kernel tells how it was written.
        pools = [node for node in chain.sums.nodes if node.op_type == "AveragePool"]
        size = math.prod(pools[0].attributes["kernel_shape"].as_ints()) if len(pools) == 1 else size
    if above != below or size % 2 == 0:
        return []
    exact = LrnSpec(size=size, alpha=share * size, beta=chain.beta, bias=bias)
    return [replace(exact, alpha=_rounded(exact.alpha), bias=_rounded(bias)), exact]


def _rounded(value: float) -> float:
    """The shortest decimal number within what FP32 arithmetic blurs."""
    return next(
        (short for digits in range(1, 8) if abs((short := float(f"{value:.{digits}g}")) - value) <= 1e-6 * abs(value)),
        value,
    )


def _proved(run: _Evaluator, sides: tuple[int, ...], shapes: _Shapes, spec: LrnSpec) -> bool:
    tolerance = _RELATIVE_TOLERANCE / max(1.0, spec.beta)
    for x in _probes(sides, spec):
        results = run(x, shapes)
        if results is None or any(result.shape != sides for result in results):
            return False
        sums, output = results
        pairs = ((x / sums.astype(np.float64), replace(spec, beta=1.0), tolerance), (output, spec, 2 * tolerance))
        if not all(np.allclose(got, lrn_reference(x, held), rtol=limit, atol=_TINY) for got, held, limit in pairs):
            return False
    return True


def _probes(sides: tuple[int, ...], spec: LrnSpec) -> Iterator[NDArray[np.float32]]:
    """Around the value at which the squares equal `bias`: all alike, and spread so that each outweighs all others."""
    random = np.random.default_rng(0)
    unit = math.sqrt(spec.bias * spec.size / spec.alpha)
    for scale in _NORMAL_SCALES:
        yield (unit * scale * random.standard_normal(sides)).astype(np.float32)
    for _ in range(2 + 256 // (sides[0] * sides[2] * sides[3])):
        magnitudes = 10 ** random.uniform(-_DECADES, _DECADES, sides)
        yield (unit * magnitudes * random.choice((-1.0, 1.0), sides)).astype(np.float32)


class _Evaluator:
    """Runs the chain alone in ONNX Runtime: `x` in, sums and output out; None where it does not run."""

    def __init__(self, data: bytes, chain: Chain) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._chain = chain
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, x: NDArray[np.float32], shapes: _Shapes) -> list[NDArray[np.float32]] | None:
        feed: dict[str, NDArray[Any]] = {str(self._chain.x.name): x}
        for node in self._chain.sums.foreign_shapes:
            shape = shapes.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
            if shape is None:
                return None
            start, end = (node.attributes.get(name) for name in ("start", "end"))
            part = slice(start.as_int() if start is not None else None, end.as_int() if end is not None else None)
            feed[str(node.outputs[0].name)] = np.asarray(shape[part], np.int64)
        try:
            results: list[NDArray[np.float32]] = self._session.run(None, feed)
        except Exception:  # its errors share no base class
            return None
        return results

    @classmethod
    def of(cls, chain: Chain) -> _Evaluator | None:
        """None where ONNX Runtime cannot read the chain: what does not run is not proved."""
        import onnx
        import onnx_ir as ir

        helper, floats, integers = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
        owner, sums = chain.x.graph, chain.sums
        present = owner.opset_imports.get("", 18) if isinstance(owner, ir.Graph) else 18
        constants = dict(sums.constants)
        for value in (value for node in chain.power_nodes for value in node.inputs if value is not None):
            array = constant(value)
            constants.update({} if array is None else {str(value.name): array})
        nodes = [node for node in owner or () if node in sums.nodes or node in chain.power_nodes]
        shape_names = [str(node.outputs[0].name) for node in sums.foreign_shapes]
        graph = helper.make_graph(
            [ir.serde.serialize_node(node) for node in nodes],
            "chain",
            [
                helper.make_tensor_value_info(str(chain.x.name), floats, [None] * 4),
                *(helper.make_tensor_value_info(name, integers, [None]) for name in shape_names),
            ],
            [
                helper.make_tensor_value_info(str(value.name), floats, None)
                for value in (chain.sums_value, chain.output)
            ],
            [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        try:
            every = [inner for node in nodes for inner in (node, *_inner_nodes(node))]
            # The oldest opset in which these operators are what they are: ONNX Runtime may not read the newest.
            opset = max(onnx.defs.get_schema(node.op_type, present).since_version for node in every)
            proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
            return cls(proto.SerializeToString(), chain)
        except Exception:  # its errors share no base class
            return None
