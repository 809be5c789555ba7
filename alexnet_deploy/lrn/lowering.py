"""Writes `LRN` nodes as a product of a band and the squares, in the form that ONNX Runtime runs fastest.

What was tried and what it gave is in docs/lrn.md; the figures are in benchmarks/results/lrn.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import GraphError
from alexnet_deploy.graph import add_initializer, decimal_of
from alexnet_deploy.limits import MAX_FOLDED_BYTES, require_within
from alexnet_deploy.specs import LrnSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import ArrayLike, DTypeLike, NDArray


def spec_of(node: ir.Node) -> LrnSpec:
    """Reads the attributes of an `LRN` node, with ONNX's defaults."""
    values = {name: node.attributes.get(name) for name in ("size", "alpha", "beta", "bias")}
    if values["size"] is None:
        raise GraphError(f"the LRN node {node.name} has no size")
    return LrnSpec(
        size=values["size"].as_int(),
        alpha=1e-4 if values["alpha"] is None else decimal_of(values["alpha"].as_float()),
        beta=0.75 if values["beta"] is None else decimal_of(values["beta"].as_float()),
        bias=1.0 if values["bias"] is None else decimal_of(values["bias"].as_float()),
    )


def lrn_nodes(model: ir.Model) -> list[ir.Node]:
    """The `LRN` nodes of the main graph, in order."""
    return [node for node in model.graph if node.op_type == "LRN" and node.domain in ("", "ai.onnx")]


def band_weights(channels: int, spec: LrnSpec) -> NDArray[np.float32]:
    """`(C, C, 1, 1)`: `alpha / size` where the column is in the row's window (ONNX's window)."""
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    inside = (offset >= -((spec.size - 1) // 2)) & (offset <= spec.size // 2)
    return (inside * np.float32(spec.alpha / spec.size)).astype(np.float32)[:, :, None, None]


# Channels of a low-rank term are rounded up to what ONNX Runtime's blocked layout takes; see `_groups`.
_BLOCK = 16
# Dense products run faster for each multiplication than several small ones: less than this share has to be left.
_WORTHWHILE = 0.8


def lower_to_banded(model: ir.Model, *, contain_nan: bool = False, channels_last: bool = False) -> int:
    """Replaces every `LRN` by a product of a band with the squares and roots, in place.

    `s = bias + band @ x**2`, then `y = x / (sqrt(s) * sqrt(sqrt(s)))` for beta = 0.75, `x / sqrt(s)` for 0.5, and
    `x / s**beta` otherwise. Convolutions and square roots vectorize; ONNX Runtime's own CPU kernel calls a scalar
    pow per element.

    Requires: four dimensions and a known channel count.
    Ensures: equal to 7e-7 relative in FP32.

    Args:
        model: Its `LRN` nodes are replaced.
        contain_nan: In a product with the band, a NaN or an infinity spreads to all the channels of its pixel
            (0 * NaN is NaN). With this, the sums are an average pool over the channels instead, which reads the
            window alone and is slower.
        channels_last: The product is a Gemm over the pixels' rows of channels, between two transposes. ONNX
            Runtime's integer convolutions are NHWC, so that in an INT8 graph the transposes vanish; in FP32 its
            convolutions are blocked by channels and a 1x1 convolution is faster.

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
        # A band is as large as its side squared, in 64 bits while it is made.
        require_within(f"the band of {node.name}", 8 * channels * channels, MAX_FOLDED_BYTES, "bytes", GraphError)
        chain = _Chain(model, node.name or str(output.name))
        if contain_nan:
            _divide(chain, x, _pooled_sums(chain, x, channels, spec_of(node)), spec_of(node))
        elif channels_last:
            _lower_over_rows(chain, x, channels, spec_of(node))
        else:
            _divide(chain, x, _convolved_sums(chain, x, channels, spec_of(node)), spec_of(node))
        last = chain.nodes[-1]
        last.name, last.outputs[0].name = chain.name, output.name
        last.outputs[0].shape, last.outputs[0].type = output.shape, output.type
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], chain.nodes, [output], last.outputs)
    return len(nodes)


class _Chain:
    """The nodes that replace one LRN, named after it."""

    def __init__(self, model: ir.Model, name: str) -> None:
        self.model, self.name = model, name
        self.nodes: list[ir.Node] = []

    def constant(self, suffix: str, values: ArrayLike, dtype: DTypeLike = np.float32) -> ir.Value:
        return add_initializer(self.model, f"{self.name}.{suffix}", np.asarray(values, dtype))

    def add(self, op: str, *inputs: ir.Value, to: str, dtype: int = 1, **attributes: Any) -> ir.Value:
        import onnx_ir as ir

        node = ir.node(op, list(inputs), attributes, name=f"{self.name}.{to}")
        node.outputs[0].name, node.outputs[0].dtype = f"{self.name}.{to}", ir.DataType(dtype)
        self.nodes.append(node)
        return node.outputs[0]


def _divide(chain: _Chain, x: ir.Value, sums: ir.Value, spec: LrnSpec) -> ir.Value:
    if spec.beta == 0.75:
        root = chain.add("Sqrt", sums, to="root")
        power = chain.add("Mul", root, chain.add("Sqrt", root, to="fourth_root"), to="power")
    elif spec.beta == 0.5:
        power = chain.add("Sqrt", sums, to="power")
    else:
        power = chain.add("Pow", sums, chain.constant("beta", spec.beta), to="power")
    return chain.add("Div", x, power, to="quotient")


def _convolved_sums(chain: _Chain, x: ir.Value, channels: int, spec: LrnSpec) -> ir.Value:
    """A 1x1 convolution over the squares: dense, or in groups with a low-rank term for the windows that cross them."""
    squares = chain.add("Mul", x, x, to="squares")
    band, bias = band_weights(channels, spec), chain.constant("bias", np.full(channels, spec.bias))
    group = _group_size(channels, spec)
    if group == channels:
        return chain.add("Conv", squares, chain.constant("band", band), bias, to="sums")
    inside = np.arange(channels)[:, None] // group == np.arange(channels)[None, :] // group
    across = np.where(inside[:, :, None, None], np.float32(0), band)
    columns = np.flatnonzero(across.any(axis=0))
    rank = _rounded_up(len(columns))
    select = np.zeros((rank, channels, 1, 1), np.float32)
    select[np.arange(len(columns)), columns] = 1
    spread = np.zeros((channels, rank, 1, 1), np.float32)
    spread[:, : len(columns)] = across[:, columns]
    diagonal = np.stack([band[row, row // group * group :][:group] for row in range(channels)])
    grouped = chain.add(
        "Conv", squares, chain.constant("band", diagonal), bias, to="sums_inside", group=channels // group
    )
    edges = chain.add("Conv", squares, chain.constant("edges", select), to="edge_squares")
    return chain.add(
        "Add", grouped, chain.add("Conv", edges, chain.constant("across", spread), to="sums_across"), to="sums"
    )


def _group_size(channels: int, spec: LrnSpec) -> int:
    """Channels of a group with the fewest multiplications; all the channels where groups do not pay."""
    best, least = channels, _WORTHWHILE * channels * channels
    for group in range(channels // 2 // _BLOCK * _BLOCK, 0, -_BLOCK):
        if channels % group == 0:
            rank = _rounded_up(min(channels, (channels // group - 1) * (spec.size - 1)))
            cost = channels * (group + 2 * rank)
            if cost < least:
                best, least = group, cost
    return best


def _rounded_up(count: int) -> int:
    return -(-count // _BLOCK) * _BLOCK


def _pooled_sums(chain: _Chain, x: ir.Value, channels: int, spec: LrnSpec) -> ir.Value:
    """`bias + alpha * mean` over the window, as a pool along the channels of `(N, 1, C, H * W)`."""
    below, above = (spec.size - 1) // 2, spec.size // 2
    rows = chain.add("Reshape", x, chain.constant("rows_shape", [0, 1, channels, -1], np.int64), to="rows")
    mean = chain.add(
        "AveragePool",
        chain.add("Mul", rows, rows, to="squares"),
        to="mean",
        kernel_shape=[spec.size, 1],
        pads=[below, 0, above, 0],
        count_include_pad=1,
    )
    scaled = chain.add("Mul", mean, chain.constant("alpha", spec.alpha), to="scaled")
    flat = chain.add("Add", scaled, chain.constant("offset", spec.bias), to="flat_sums")
    return chain.add("Reshape", flat, chain.add("Shape", x, to="shape", dtype=7), to="sums")


def _lower_over_rows(chain: _Chain, x: ir.Value, channels: int, spec: LrnSpec) -> None:
    """A Gemm over `(N * H * W, C)`.

    The input is scaled by `a = sqrt(alpha / size)` first, and `a` leaves through the sums again:
    `x / (bias + a**2 * w)**beta = a * x / (a**(1 / beta) * (bias + a**2 * w))**beta`. This way one node alone reads
    the input; ONNX Runtime gives every reader of a dequantized tensor a dequantization of its own.
    """
    scale = float(np.sqrt(spec.alpha / spec.size)) if spec.alpha > 0 else 1.0
    unit = LrnSpec(size=spec.size, alpha=spec.size if spec.alpha > 0 else 0.0, beta=spec.beta, bias=spec.bias)
    lifted = scale ** (1 / spec.beta)
    across = chain.add("Transpose", x, to="channels_last", perm=[0, 2, 3, 1])
    scaled = chain.add("Mul", across, chain.constant("scale", scale), to="scaled")
    rows = chain.add("Reshape", scaled, chain.constant("rows_shape", [-1, channels], np.int64), to="rows")
    band = chain.constant("band", band_weights(channels, unit)[:, :, 0, 0].T * np.float32(lifted))
    bias = chain.constant("bias", np.full(channels, spec.bias * lifted))
    sums = chain.add("Gemm", chain.add("Mul", rows, rows, to="squares"), band, bias, to="sums")
    quotient = _divide(chain, rows, sums, spec)
    shape = chain.add("Shape", across, to="shape", dtype=7)
    back = chain.add("Reshape", quotient, shape, to="back")
    chain.add("Transpose", back, to="channels_first", perm=[0, 3, 1, 2])
