"""Puts an exported or foreign ONNX graph into the form that the later stages read.

Standard `LRN` nodes, a dynamic batch, `Flatten` instead of a reshape to constants, no training leftovers, and
names that mean something.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import GraphError
from alexnet_deploy.graph import INPUT_NAME, add_initializer, constant_of, inferred_copy, input_shape
from alexnet_deploy.limits import MAX_FOLDED_BYTES, require_within
from alexnet_deploy.lrn.recovery import Recovered, recover_lrn

if TYPE_CHECKING:
    import onnx_ir as ir

# torch's exporter writes 18 and newer itself; every runtime and TensorRT-RTX 1.7 read it.
DEFAULT_OPSET = 18
OPSETS = tuple(range(18, 24))
BATCH_NAME = "batch"
# AlexNet's largest layer has 38 million weights; a shape of a few bytes can claim any number.
_MOST_FOLDED = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """The graph in the common form, and what was done to it."""

    model: ir.Model
    recovered: tuple[Recovered, ...]
    changes: tuple[str, ...]

    @property
    def modified(self) -> bool:
        """Whether anything was changed."""
        return bool(self.recovered or self.changes)


def normalise(model: ir.Model, *, opset: int = DEFAULT_OPSET, rename: bool = False) -> Normalised:
    """Normalises a copy of `model`.

    Args:
        model: Any graph with one image input and one output; it is not touched.
        opset: Graphs below it are converted up to it.
        rename: Give every layer its textbook name; else only nameless nodes get one.

    Raises:
        GraphError: The graph has no single image input, or cannot be converted.
    """
    from onnx_ir.passes import common

    input_shape(model)
    changes: list[str] = []
    current = _with_opset(model, opset, changes)
    passes: list[tuple[str, Callable[[ir.Model], int]]] = [
        ("constant nodes made initializers", _lift_constants),
        ("weights taken off the inputs", _inputs_without_initializers),
        ("training leftovers removed", _remove_leftovers),
        ("reshaped weights folded", _fold_reshaped_weights),
        ("reshapes made Flatten", _reshape_to_flatten),
    ]
    for text, run in passes:
        count = run(current)
        if count:
            changes.append(f"{count} {text}")
    common.RemoveUnusedNodesPass()(current)
    # Before the batch is freed: torch writes a fixed one into the reshapes around the window.
    current = inferred_copy(current)
    recovered = tuple(recover_lrn(current))
    if _make_batch_dynamic(current):
        changes.append("batch made dynamic")
    if name_layers(current, rename=rename):
        changes.append("layers named")
    _forget_exporter_notes(current)
    return Normalised(model=inferred_copy(current), recovered=recovered, changes=tuple(changes))


def _with_opset(model: ir.Model, opset: int, changes: list[str]) -> ir.Model:
    import onnx
    import onnx_ir as ir

    present = model.opset_imports.get("", 0)
    proto = ir.to_proto(model)
    if present >= opset:
        return ir.from_proto(proto)
    try:
        converted = onnx.version_converter.convert_version(proto, opset)
    except (RuntimeError, ValueError, IndexError, onnx.shape_inference.InferenceError) as exc:
        raise GraphError(
            f"the graph cannot be converted from opset {present} to {opset}", got=str(exc).split("\n")[0]
        ) from exc
    changes.append(f"opset {present} to {opset}")
    converted.ir_version = max(converted.ir_version, 8)
    return ir.from_proto(converted)


def _lift_constants(model: ir.Model) -> int:
    from onnx_ir.passes import common

    before = sum(node.op_type in ("Constant", "ConstantOfShape") for node in model.graph)
    described = [node for node in model.graph if node.op_type == "ConstantOfShape"]
    size = sum(_bytes_described(node) for node in described)
    require_within("what the graph describes as constants", size, MAX_FOLDED_BYTES, "bytes", GraphError)
    for node in described:
        _fold_constant_of_shape(model, node)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return before - sum(node.op_type in ("Constant", "ConstantOfShape") for node in model.graph)


def _bytes_described(node: ir.Node) -> int:
    shape, fill = constant_of(node.inputs[0]), node.attributes.get("value")
    if shape is None or (shape < 0).any():
        return 0
    return math.prod(int(side) for side in shape) * (4 if fill is None else fill.as_tensor().numpy().itemsize)


def _fold_constant_of_shape(model: ir.Model, node: ir.Node) -> None:
    import onnx_ir as ir

    shape = constant_of(node.inputs[0])
    if shape is None or (shape < 0).any():
        return
    fill = node.attributes.get("value")
    value = fill.as_tensor().numpy() if fill is not None else np.zeros(1, np.float32)
    output = node.outputs[0]
    name, output.name = str(output.name), None
    filled = np.full([int(side) for side in shape], value.reshape(()))
    initializer = add_initializer(model, name, filled)
    ir.convenience.replace_all_uses_with(output, initializer)
    model.graph.remove(node, safe=True)


def _inputs_without_initializers(model: ir.Model) -> int:
    kept = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    removed = len(model.graph.inputs) - len(kept)
    model.graph.inputs[:] = kept
    return removed


def _remove_leftovers(model: ir.Model) -> int:
    """Dropout and Identity do nothing at inference."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    removed = 0
    for node in [node for node in model.graph if node.op_type in ("Dropout", "Identity")]:
        source, output = node.inputs[0], node.outputs[0]
        if source is None or output in model.graph.outputs or any(extra.uses() for extra in node.outputs[1:]):
            continue
        ir.convenience.replace_all_uses_with(output, source)
        model.graph.remove(node, safe=True)
        removed += 1
    common.RemoveUnusedNodesPass()(model)
    return removed


def _fold_reshaped_weights(model: ir.Model) -> int:
    """Caffe2 wrote a classifier's weights as a Reshape of a constant, behind which nobody sees a constant."""
    import onnx_ir as ir

    folded = made = 0
    for node in [node for node in model.graph if node.op_type == "Reshape"]:
        array, shape = constant_of(node.inputs[0]), constant_of(node.inputs[1])
        output = node.outputs[0]
        if array is None or shape is None or output in model.graph.outputs:
            continue
        keeps_zero = node.attributes.get_int("allowzero", 0)
        try:
            sides = [array.shape[at] if side == 0 and not keeps_zero else int(side) for at, side in enumerate(shape)]
            reshaped = array.reshape(sides)
        except (IndexError, ValueError):
            # It cannot run either; whoever runs it says so.
            continue
        # Many may reshape one constant, and each is a constant of its own afterwards.
        made += array.nbytes
        require_within("the reshaped constants of the graph", made, MAX_FOLDED_BYTES, "bytes", GraphError)
        value = add_initializer(model, f"{output.name}.folded", reshaped)
        ir.convenience.replace_all_uses_with(output, value)
        model.graph.remove(node, safe=True)
        folded += 1
    return folded


def _reshape_to_flatten(model: ir.Model) -> int:
    """A reshape of four dimensions to two, all features in one row, whatever batch was written into it."""
    import onnx_ir as ir

    count = 0
    inferred = {value.name: value.shape for node in inferred_copy(model).graph for value in node.outputs}
    for node in list(model.graph):
        target = constant_of(node.inputs[1]) if node.op_type == "Reshape" else None
        before = inferred.get(node.inputs[0].name) if node.inputs and node.inputs[0] is not None else None
        if target is None or target.size != 2 or before is None or len(before) != 4:
            continue
        sides = [side for side in before if isinstance(side, int)]
        features = int(np.prod(sides[-3:])) if len(sides) >= 3 else 0
        if int(target[1]) not in (features, -1) or (int(target[0]) not in (0, -1, 1) and target[0] != before[0]):
            continue
        flatten = ir.node("Flatten", [node.inputs[0]], {"axis": 1}, name=node.name)
        flatten.outputs[0].name, flatten.outputs[0].type = node.outputs[0].name, node.outputs[0].type
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [flatten], [node.outputs[0]], flatten.outputs
        )
        count += 1
    return count


def _make_batch_dynamic(model: ir.Model) -> bool:
    """Frees the first side of input and outputs, and forgets the shapes in between that were inferred from it."""
    import onnx_ir as ir

    image = model.graph.inputs[0]
    if not image.shape:
        raise GraphError(
            "the graph's input has no shape", got=str(image.name), expected="one input of shape (N, 3, S, S)"
        )
    if not isinstance(image.shape[0], int):
        return False
    for value in [image, *model.graph.outputs]:
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape([BATCH_NAME, *list(value.shape)[1:]])
    for node in model.graph:
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None
    return True


def _forget_exporter_notes(model: ir.Model) -> None:
    """Source lines and traces that exporters attach to every node."""
    model.graph.name = model.graph.name or "network"
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


_KINDS = {"Relu": "relu", "LRN": "norm", "MaxPool": "pool", "AveragePool": "pool", "Softmax": "prob"}


def name_layers(model: ir.Model, *, rename: bool) -> bool:
    """Names nodes and values after the layers: conv1, relu1, norm1, pool1 … fc6; returns whether any changed.

    A pool, norm or ReLU has the number of the last weighted layer before it.
    """
    index, changed = 0, False
    # As many as a name has already: counted, or a graph of one layer many times would take the square of its length.
    marks: Counter[str] = Counter()
    used = {node.name for node in model.graph if node.name and not rename}
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            index += 1
        if node.name and not rename:
            continue
        plain = _layer_name(node.op_type, index)
        while (name := plain + "_" * marks[plain]) in used:
            marks[plain] += 1
        used.add(name)
        node.name, changed = name, True
        if rename and node.outputs[0] not in model.graph.outputs:
            node.outputs[0].name = name
        for value, kind in zip(node.inputs[1:3], ("weight", "bias"), strict=False):
            if rename and value is not None and value.is_initializer() and len(value.uses()) == 1:
                value.name = f"{name}.{kind}"
    if rename:
        model.graph.inputs[0].name = INPUT_NAME
    return changed


def _layer_name(op_type: str, index: int) -> str:
    if op_type == "Conv":
        return f"conv{index}"
    if op_type in ("Gemm", "MatMul"):
        return f"fc{index}"
    if op_type == "Softmax":
        return "prob"
    return f"{_KINDS.get(op_type, op_type.lower())}{index}"
