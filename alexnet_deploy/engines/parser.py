"""From ONNX to TensorRT's network, naming every node that it cannot read."""

from __future__ import annotations

from typing import Any

from alexnet_deploy.errors import EngineError
from alexnet_deploy.trt_log import first_error, is_noise, logger_of

_MOST_NODES = 8
# What the parser says where it has no importer for an operator: the condition that did not hold, and no words.
_WORDLESS = ("false", "")


def network_from_onnx(trt: Any, builder: Any, graph: bytes, flags: int) -> Any:
    """Parses a graph.

    Args:
        trt: TensorRT or TensorRT-RTX.
        builder: Makes the network.
        graph: A serialized ONNX model.
        flags: `NetworkDefinitionCreationFlag` bits.

    Raises:
        EngineError: The parser refuses it; the message has every node it refused, and why.
    """
    logger = logger_of(trt)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    # An empty buffer parses, into nothing. Where it fails, the errors are those of `supports_model_v2`.
    if not parser.parse(graph) or network.num_layers == 0:
        backend = trt.__name__.replace("_", "-")
        refused = [_refusal(parser.get_error(index)) for index in range(parser.num_errors)]
        more = f"; and {len(refused) - _MOST_NODES} more" if len(refused) > _MOST_NODES else ""
        raise EngineError(
            f"{backend} cannot read the graph",
            got="; ".join(refused[:_MOST_NODES]) + more or first_error(logger.lines, "a graph without layers"),
            expected="operators and attributes that its ONNX parser knows" if refused else None,
        )
    return network


def _refusal(error: Any) -> str:
    """One node, its operator, and the parser's first words that say something."""
    name, operator = error.node_name(), error.node_operator()
    lines = [line.strip() for line in str(error.desc()).split("\n") if not is_noise(line)]
    said = [line for line in lines if line not in _WORDLESS and line != f"Invalid Node - {name}"]
    reason = said[0] if said else f"no such operator ({error.code().name})"
    return f"{name or 'a nameless node'} ({operator}): {reason}" if operator else reason
