"""What an artifact reads and gives: names, types and shapes, as the artifact itself has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.artifacts import Passport
from alexnet_deploy.errors import ArtifactError, EngineError, GraphError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.graph_guard import read_proto

if TYPE_CHECKING:
    import onnx

# ONNX's element types -> the names in Triton's schema.
_TYPES = {1: "TYPE_FP32", 10: "TYPE_FP16", 16: "TYPE_BF16"}
_STANDARD = frozenset({"", "ai.onnx"})
# Operators that every build of ONNX Runtime has.
CONTRIB_DOMAIN = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output.

    Attributes:
        data_type: `TYPE_FP32` and the like.
        shape: With the batch; -1 where any size goes.
    """

    name: str
    data_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The one input of images, and the one output of logits.

    Attributes:
        least, most: The smallest and the largest batch that go in; `most` is None where there is no bound.
        profiles: Of an engine: its batch profiles as `(min, opt, max)`, between which there may be batches that do not.
    """

    input: Port
    output: Port
    least: int = 1
    most: int | None = None
    profiles: tuple[tuple[int, int, int], ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether the artifact takes one batch size only, which the server cannot batch for."""
        return self.input.shape[0] != -1 or self.output.shape[0] != -1

    @property
    def reach(self) -> int | None:
        """The largest batch up to which every one from `least` on goes in; None where there is no bound."""
        if not self.profiles:
            return self.most
        reached = self.least - 1
        for least, _, most in sorted(self.profiles):
            if least <= reached + 1:
                reached = max(reached, most)
        return reached

    @property
    def classes(self) -> int:
        """Logits of an image."""
        return self.output.shape[-1]


def ports_of_graph(path: Path, *, domains: Iterable[str] = ()) -> Ports:
    """Reads them off an ONNX file.

    Args:
        path: The file.
        domains: Of operators beyond the standard ones that will run it.

    Raises:
        InputError: It is not ONNX.
        GraphError: It has other inputs and outputs than a network of images, operators that the backend lacks, or keeps
            weights in files beside it.
    """
    proto = read_proto(path)
    known = _STANDARD | set(domains)
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in _nodes(proto) if node.domain not in known})
    if foreign:
        raise GraphError(
            f"{path.name} has operators that the backend does not",
            got=", ".join(foreign[:8]),
            expected="operators of ONNX itself",
            remedy="package a graph whose LRN is native or banded: `export` with --target, and --lrn banded",
        )
    outside = [tensor.name for tensor in proto.graph.initializer if tensor.external_data]
    if outside:
        raise GraphError(
            f"{path.name} keeps weights in files beside it",
            got=", ".join(outside[:4]),
            expected="one file",
            remedy="export it with this tool, which writes one file",
        )
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [port for port in map(_port, proto.graph.input) if port.name not in constants]
    outputs = [_port(value) for value in proto.graph.output]
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 2:
        raise GraphError(
            f"{path.name} is no network from images to logits",
            got=f"inputs {_shapes(inputs)}, outputs {_shapes(outputs)}",
            expected="one input (N, 3, S, S) and one output (N, classes)",
        )
    for port in (*inputs, *outputs):
        if min(port.shape[1:]) < 1 or not port.data_type:
            raise GraphError(
                f"{port.name} of {path.name} is not known well enough",
                got=f"{port.data_type or 'another type'} {port.shape}",
                expected=f"{', '.join(_TYPES.values())}, and every size but the batch a number",
            )
    batch = inputs[0].shape[0]
    return Ports(input=inputs[0], output=outputs[0], least=max(batch, 1), most=None if batch == -1 else batch)


def ports_of_engine(path: Path, passport: Passport) -> Ports:
    """Names, types and shapes of an engine's graph, which lies beside it, and the batches of the engine's passport.

    An engine says what it reads only to the TensorRT that built it, on such a GPU.

    Raises:
        ArtifactError: The graph is not there or another one, or the passport says no profiles.
        GraphError: The graph is no network of images.
    """
    name, digest = passport.parents[0] if passport.parents else ("", "")
    graph = path.with_name(Path(name).name) if name else path
    if not name or not graph.is_file() or sha256_of(graph) != digest:
        raise ArtifactError(
            f"the graph that {path.name} was built from is not beside it",
            got=f"no {name or 'graph in the passport'}, or another file of that name",
            expected=f"{name} with sha256 {digest}" if name else "an engine that build-engine made",
            remedy="copy the graph along with the engine, or build the engine again",
        )
    found = ports_of_graph(graph)
    profiles = tuple(_profiles(passport.facts))
    if not profiles:
        raise ArtifactError(
            f"the passport of {path.name} says no batch profiles", remedy="build the engine again with `build-engine`"
        )
    return Ports(
        input=found.input,
        output=found.output,
        least=min(least for least, _, _ in profiles),
        most=max(most for _, _, most in profiles),
        profiles=profiles,
    )


def require_every_batch(ports: Ports, largest: int, name: str) -> None:
    """The server puts any number of requests together up to the largest batch, whether or not a profile takes them.

    Raises:
        EngineError: The artifact of that name does not take every batch up to the largest.
    """
    if ports.reach is None or largest <= ports.reach:
        return
    gap = min(least for least, _, _ in ports.profiles if least > ports.reach) - 1
    raise EngineError(
        f"{name} takes no batch of {ports.reach + 1}, and the server would make one",
        got=f"profiles {', '.join(f'{least}:{best}:{most}' for least, best, most in ports.profiles)}",
        expected=f"every batch from {ports.least} to {largest}",
        remedy=f"build it with a --profile that goes up to {gap}, or package it with --max-batch {ports.reach}",
    )


def _profiles(facts: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
    options = facts.get("options")
    for profile in options.get("profiles", []) if isinstance(options, dict) else []:
        said = [profile.get(name) for name in ("min", "opt", "max")] if isinstance(profile, dict) else []
        values = [value for value in said if isinstance(value, int) and value > 0]
        if len(values) == 3:
            yield values[0], values[1], values[2]


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Of the graph, of graphs in attributes, and of functions."""
    waiting: list[Iterable[onnx.NodeProto]] = [proto.graph.node, *(function.node for function in proto.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting += [graph.node for graph in (attribute.g, *attribute.graphs)]


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    shape = tuple(side.dim_value if side.HasField("dim_value") else -1 for side in tensor.shape.dim)
    return Port(name=value.name, data_type=_TYPES.get(tensor.elem_type, ""), shape=shape)


def _shapes(ports: list[Port]) -> str:
    return ", ".join(f"{port.name} {port.shape}" for port in ports) or "none"
