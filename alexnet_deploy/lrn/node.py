"""The node `alexnet_deploy::LocalResponseNorm`, which a TensorRT plugin takes over, carried with its function body.

The body makes the file run where there is no plugin: ONNX Runtime inlines it, TensorRT parses it. Where the plugin is
wanted, `without_bodies` takes them out first, since TensorRT-RTX's parser prefers a body to a registered plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alexnet_deploy.lrn.lowering import lrn_nodes, spec_of

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

DOMAIN = "alexnet_deploy"
NODE, POOLED_NODE = "LocalResponseNorm", "LocalResponseNormMaxPool"
_ATTRIBUTES = ("size", "alpha", "beta", "bias")
_HALF = ("FLOAT16", "BFLOAT16")


def lower_to_plugin(model: ir.Model, *, fuse_pool: bool = True) -> int:
    """Replaces every `LRN` by the plugin's node, in place, and adds the function bodies.

    Casts to FP32 around the norm are taken out: the plugin reads and writes 16 bits and sums in FP32 itself. With
    `fuse_pool`, a 3x3 stride-2 max pool that alone reads the norm becomes part of the node.

    Requires: `LRN` as the standard node.
    Ensures: the model computes the same, in ONNX Runtime too.

    Returns:
        How many norms were replaced.
    """
    import onnx_ir as ir

    nodes = lrn_nodes(model)
    for node in nodes:
        spec = spec_of(node)
        source, first, last = _around(model, node, fuse_pool=fuse_pool)
        pooled = last.op_type == "MaxPool"
        output = last.outputs[0]
        new = ir.node(
            POOLED_NODE if pooled else NODE,
            [source],
            {"size": spec.size, "alpha": spec.alpha, "beta": spec.beta, "bias": spec.bias},
            domain=DOMAIN,
            name=node.name,
        )
        new.outputs[0].name, new.outputs[0].shape, new.outputs[0].type = output.name, output.shape, output.type
        old = _between(first, last)
        ir.convenience.replace_nodes_and_values(model.graph, last, old, [new], [output], new.outputs)
    if nodes:
        model.graph.opset_imports[DOMAIN] = 1
        for body in _bodies(model.graph.opset_imports[""]):
            function = ir.serde.deserialize_function(body)
            model.functions[function.identifier()] = function
    return len(nodes)


def without_bodies(model: ir.Model) -> ir.Model:
    """The model for a parser that has the plugin; it is changed in place."""
    for identifier in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[identifier]
    return model


def plugin_nodes(model: ir.Model) -> list[ir.Node]:
    """The plugin's nodes of the main graph, in order."""
    return [node for node in model.graph if node.domain == DOMAIN and node.op_type in (NODE, POOLED_NODE)]


def _around(model: ir.Model, node: ir.Node, *, fuse_pool: bool) -> tuple[ir.Value, ir.Node, ir.Node]:
    """The value to read, and the first and last node to replace."""
    first = last = node
    source = node.inputs[0]
    assert source is not None
    before, after = source.producer(), _only_user(model, node)
    if (
        before is not None
        and before.op_type == "Cast"
        and after is not None
        and after.op_type == "Cast"
        and _only_user(model, before) is node
    ):
        narrow = before.inputs[0]
        assert narrow is not None
        types = [value.dtype.name if value.dtype is not None else "" for value in (narrow, after.outputs[0])]
        if types[0] == types[1] and types[0] in _HALF:
            source, first, last = narrow, before, after
    pool = _only_user(model, last)
    if fuse_pool and pool is not None and _is_plain_pool(pool):
        last = pool
    return source, first, last


def _between(first: ir.Node, last: ir.Node) -> list[ir.Node]:
    chain = [last]
    while chain[-1] is not first:
        producer = chain[-1].inputs[0].producer() if chain[-1].inputs[0] is not None else None
        assert producer is not None
        chain.append(producer)
    return chain


def _only_user(model: ir.Model, node: ir.Node) -> ir.Node | None:
    output = node.outputs[0]
    users = {use.node for use in output.uses()}
    return users.pop() if len(users) == 1 and output not in model.graph.outputs else None


def _is_plain_pool(node: ir.Node) -> bool:
    """3x3, stride 2, nothing padded, sides rounded down, no indices."""
    if node.op_type != "MaxPool" or node.domain not in ("", "ai.onnx") or len(node.outputs) > 1:
        return False
    plain = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0] * 4, "dilations": [1, 1]}
    for name, wanted in plain.items():
        attribute = node.attributes.get(name)
        default = name in ("pads", "dilations")
        if (attribute is None and not default) or (attribute is not None and list(attribute.as_ints()) != wanted):
            return False
    ceil, auto = node.attributes.get("ceil_mode"), node.attributes.get("auto_pad")
    return (ceil is None or ceil.as_int() == 0) and (auto is None or auto.as_string() in ("NOTSET", "VALID"))


def _bodies(opset: int) -> list[onnx.FunctionProto]:
    """Function bodies of both nodes, in the model's own operator set: ONNX's checker takes no other.

    The pooled one repeats the other: TensorRT-RTX 1.7 refuses a window that is made of attributes which one function
    passes to another.
    """
    from onnx import parser

    header = f'opset_import: ["" : {opset}], domain: "{DOMAIN}"'
    attributes = ", ".join(_ATTRIBUTES)
    functions = []
    for name, last, text in (
        (NODE, "y = Identity (narrow)", "Local Response Normalization, summed in FP32"),
        (POOLED_NODE, "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (narrow)", "the same, max-pooled"),
    ):
        functions.append(parser.parse_function(f"<{header}> {name} <{attributes}> (x) => (y) {{{_BODY}{last}}}"))
        functions[-1].doc_string = text
    return functions


# Summed in FP32 whatever the type: squares of FP16 above 255 overflow. Not `LRN` itself: ONNX Runtime's slides its sum
# along the channels, so that a large activation leaves its rounding (and a NaN itself) to every channel behind it, and
# it takes odd windows only. Not a band of C by C either, which spreads a NaN over its pixel. The window slides along
# the channels of (N, 1, C, H * W) instead; everything but the activations is constant once the attributes are known.
_BODY = """
    wide = Cast <to = 1> (x)
    squares = Mul (wide, wide)
    flat_shape = Constant <value_ints = [0, 0, -1]> ()
    flat = Reshape (squares, flat_shape)
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    none = Constant <value_ints = [0]> ()
    nones = Constant <value_ints = [0, 0]> ()
    rows = Unsqueeze (flat, one)
    size_ = Constant <value_int: int = @size> ()
    alpha_ = Constant <value_float: float = @alpha> ()
    beta_ = Constant <value_float: float = @beta> ()
    bias_ = Constant <value_float: float = @bias> ()
    sizes = Mul (size_, one)
    less = Sub (sizes, one)
    below = Div (less, two)
    above = Div (sizes, two)
    pads = Concat <axis = 0> (nones, below, none, nones, above, none)
    padded = Pad (rows, pads)
    wide_size = Cast <to = 1> (size_)
    share = Div (alpha_, wide_size)
    window_shape = Concat <axis = 0> (one, one, sizes, one)
    window = Expand (share, window_shape)
    sums = Conv (padded, window)
    denominators = Add (sums, bias_)
    powers = Pow (denominators, beta_)
    shape = Shape (x)
    divisors = Reshape (powers, shape)
    n = Div (wide, divisors)
    narrow = CastLike (n, x)
"""
