"""What an ONNX file may claim: held against the bounds before it is parsed, and against what it holds afterwards.

protobuf makes an object of every two bytes; a shape is a claim about bytes that may not be there; a function that calls
another ten times, which calls a third ten times, a dozen deep, is a graph of a million million nodes. So the file is
walked first, without making anything of it, and its tensors and functions are counted before ONNX's own code sees them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.limits import (
    MAX_DIMENSIONS,
    MAX_GRAPH_FIELDS,
    MAX_GRAPH_NODES,
    MAX_NAME_BYTES,
    MAX_NESTING,
    MAX_ONNX_BYTES,
    MAX_PACKED_BYTES,
    bounded_bytes,
    require_within,
)

if TYPE_CHECKING:
    import onnx

_AGAIN = "export it, or copy it, again"
# What protobuf writes of a field: a varint, eight bytes, a length and as many bytes, four bytes.
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
# Kinds of fields of a length: messages are walked, these two are measured, all others are bytes.
_PACKED, _NAME = "packed", "name"
_FREE_TEXTS = frozenset({"doc_string", "value"})
_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})

# Numbers of the fields of a TensorProto (onnx.proto3).
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9

Function = tuple[str, str, str]


def read_proto(path: Path) -> onnx.ModelProto:
    """Parses an ONNX file, without the files beside it.

    Raises:
        InputError: It is missing, empty, too large, of too many pieces, or not ONNX.
    """
    return proto_from_bytes(onnx_bytes(path), str(path))


def onnx_bytes(path: Path) -> bytes:
    """The content of an ONNX file.

    Raises:
        InputError: It is missing, empty or too large.
    """
    if not path.is_file():
        raise InputError(f"there is no ONNX file {str(path)!r}", remedy="check the path")
    try:
        data = bounded_bytes(path, MAX_ONNX_BYTES)
    except OSError as exc:
        raise InputError(f"{path} cannot be read", got=exc.strerror or exc) from exc
    if not data:
        raise InputError(f"{path} is empty", got="0 bytes", expected=f"1 to {MAX_ONNX_BYTES:,}", remedy=_AGAIN)
    return data


def proto_from_bytes(data: bytes, where: str) -> onnx.ModelProto:
    """Parses ONNX.

    Args:
        data: The file.
        where: What messages call it.

    Raises:
        InputError: It is of too many pieces, or not ONNX.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    _walk(data, where)
    try:
        return onnx.load_from_string(data)
    except (DecodeError, ValueError) as exc:
        raise _no_onnx(where, data) from exc


def _no_onnx(where: str, data: bytes) -> InputError:
    return InputError(f"{where} is not an ONNX file, or cut short", got=f"{len(data)} bytes", remedy=_AGAIN)


def _walk(data: bytes, where: str) -> None:
    """Counts the fields of all messages, from outside to inside, and makes nothing of them."""
    import onnx

    fields = packed = 0
    known = {"": _kinds_of(onnx.ModelProto.DESCRIPTOR)}
    # The messages that are open, from outside to inside: kinds of their fields, and where they go on and end.
    left: list[tuple[dict[int, Any], int, int]] = [(known[""], 0, len(data))]
    while left:
        kind_of, at, end = left.pop()
        while at < end:
            fields += 1
            require_within(f"the graph of {where}", fields, MAX_GRAPH_FIELDS, "fields or more")
            try:
                number, start, at = _field(data, at)
            except (IndexError, ValueError) as exc:
                raise _no_onnx(where, data) from exc
            if at > end:
                raise _no_onnx(where, data)
            kind = kind_of.get(number) if start is not None else None
            if kind is None or start is None:
                continue
            if kind is _PACKED:
                packed += at - start
                require_within(f"{where}, whose numbers are packed,", packed, MAX_PACKED_BYTES, "bytes of them or more")
            elif kind is _NAME:
                require_within(f"a name in {where}", at - start, MAX_NAME_BYTES, "bytes")
            else:
                if kind.full_name not in known:
                    known[kind.full_name] = _kinds_of(kind)
                if kind.full_name == onnx.TensorProto.DESCRIPTOR.full_name:
                    _require_raw(where, data, start, at)
                left.append((kind_of, at, end))
                kind_of, at, end = known[kind.full_name], start, at
                require_within(f"{where}, nested in itself,", len(left) + 1, MAX_NESTING, "messages deep or more")


def _require_raw(where: str, data: bytes, at: int, end: int) -> None:
    """A tensor's raw bytes are as many as its shape says: measured where they lie, since protobuf would copy them."""
    fields: dict[int, int] = {}
    shape: list[int] = []
    name, raw = b"", None
    while at < end and len(shape) <= MAX_DIMENSIONS:
        try:
            number, start, after = _field(data, at)
            value = _varint(data, _varint(data, at)[1])[0] if start is None else 0
        except (IndexError, ValueError) as exc:
            raise _no_onnx(where, data) from exc
        if start is None and number == _DIMS:
            shape.append(value - (1 << 64 if value >> 63 else 0))
        elif start is None:
            fields[number] = value
        elif number == _TENSOR_NAME:
            name = data[start:after]
        elif number == _RAW_DATA:
            raw = after - start
        elif number == _DIMS:
            # Packed, as nobody writes it: what is parsed is held against the file afterwards.
            return
        at = after
    if raw is not None and min(shape, default=0) >= 0 and len(shape) <= MAX_DIMENSIONS:
        _require_bytes(where, name.decode(errors="replace"), fields.get(_DATA_TYPE, 0), shape, raw)


def _require_bytes(where: str, name: str, data_type: int, shape: list[int], raw: int) -> None:
    import onnx_ir as ir

    try:
        dtype = ir.DataType(data_type)
        expected = _bytes_of(dtype, shape)
    except (ValueError, TypeError):
        # ONNX's checker says which types there are, and which have raw bytes.
        return
    if raw != expected:
        raise _not_whole(where, name, dtype, shape, f"{raw:,} bytes", expected)


def _bytes_of(dtype: Any, shape: Iterable[int]) -> int:
    """What a tensor takes in raw form; numbers of a few bits are packed."""
    return int(-(-math.prod(shape) * dtype.bitwidth // 8))


def _not_whole(where: str, name: str, dtype: Any, shape: list[int], got: str, expected: int) -> InputError:
    return InputError(
        f"{where}: the tensor {name!r} does not hold what its shape says",
        got=got,
        expected=f"{expected:,} for {dtype.name} {shape}",
        remedy=_AGAIN,
    )


def _kinds_of(message: Any) -> dict[int, Any]:
    """By field number: the message inside, or what is measured of its bytes."""
    found: dict[int, Any] = {}
    for field in message.fields:
        if field.message_type is not None:
            found[field.number] = field.message_type
        elif field.type == field.TYPE_STRING and field.name not in _FREE_TEXTS:
            found[field.number] = _NAME
        elif field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
            found[field.number] = _PACKED
    return found


def _field(data: bytes, at: int) -> tuple[int, int | None, int]:
    """Number of the field at a place, where its bytes begin if it has a length, and where the next one is.

    Raises:
        IndexError: It is cut short.
        ValueError: It is none of what ONNX writes.
    """
    tag, at = _varint(data, at)
    wire = tag & 7
    if wire == _LENGTH:
        size, at = _varint(data, at)
        return tag >> 3, at, at + size
    if wire == _VARINT:
        return tag >> 3, None, _varint(data, at)[1]
    if wire in (_EIGHT, _FOUR):
        return tag >> 3, None, at + (8 if wire == _EIGHT else 4)
    raise ValueError(f"a field of the kind {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def require_sound(path: Path, proto: onnx.ModelProto) -> None:
    """Holds a parsed model against itself: whole tensors, functions that end, nothing that this package cannot read.

    Raises:
        InputError: It is not so.
    """
    if proto.training_info:
        raise InputError(f"{path} is a graph for training", expected="one for inference", remedy=_AGAIN)
    _require_few_nodes(path, proto)
    size = path.stat().st_size
    for tensor in tensors_of(proto):
        _require_whole(path, tensor, size)
    for graph in _graphs_of(proto):
        if graph.sparse_initializer:
            raise InputError(f"{path} keeps weights in sparse form", expected="dense ones", remedy=_AGAIN)


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All constants: of the graph, of its nodes, of the graphs inside them, and of its functions."""
    for graph in _graphs_of(proto):
        yield from graph.initializer
    for attribute in _attributes_of(proto):
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t
        # Its parts are tensors of their own, whose data nobody here makes dense.
        for sparse in (*attribute.sparse_tensors, *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor")
                                                    else [])):  # fmt: skip
            yield from (sparse.values, sparse.indices)


def _attributes_of(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for function in proto.functions:
        yield from function.attribute_proto
    for node in _all_nodes(proto):
        yield from node.attribute


def _all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _nodes_of(proto.graph.node)
    for function in proto.functions:
        yield from _nodes_of(function.node)


def _nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs inside them, which protobuf nests a hundred messages deep at most."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in _inner_graphs(attribute):
                yield from _nodes_of(inner.node)


def _inner_graphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _graphs_of(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for attribute in _attributes_of(proto):
        yield from _inner_graphs(attribute)


def _require_few_nodes(path: Path, proto: onnx.ModelProto) -> None:
    """As many as there are when every function is written out where it is called."""
    functions: dict[Function, Counter[Function]] = {
        (each.domain, each.name, each.overload): _calls(each.node) for each in proto.functions
    }
    order = TopologicalSorter({name: set(calls) & set(functions) for name, calls in functions.items()})
    sizes: dict[Function, int] = {}
    try:
        for name in order.static_order():
            sizes[name] = _size(functions[name], sizes)
    except CycleError as exc:
        raise InputError(
            f"{path} has functions that call themselves",
            got=" calls ".join(":".join(part for part in name if part) for name in exc.args[1]),
            expected="functions that can be written out",
            remedy=_AGAIN,
        ) from exc
    total = max([_size(_calls(proto.graph.node), sizes), *sizes.values()])
    require_within(f"{path}, with its functions written out,", total, MAX_GRAPH_NODES, "nodes or more")


def _calls(nodes: Iterable[onnx.NodeProto]) -> Counter[Function]:
    return Counter((node.domain, node.op_type, node.overload) for node in _nodes_of(nodes))


def _size(calls: Counter[Function], sizes: dict[Function, int]) -> int:
    # A number of nodes can have millions of digits; far beyond the bound, which one it is does not matter.
    return min(sum(count * sizes.get(name, 1) for name, count in calls.items()), 1000 * MAX_GRAPH_NODES)


def _require_whole(path: Path, tensor: onnx.TensorProto, size: int) -> None:
    """A tensor holds as many numbers as its shape says."""
    import onnx_ir as ir

    shape = list(tensor.dims)
    if len(shape) > MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise InputError(
            f"{path}: the tensor {tensor.name!r} has a shape that cannot be",
            got=f"{len(shape)} dimensions, {shape[:8]}",
            expected=f"at most {MAX_DIMENSIONS}, none negative",
        )
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        # ONNX's checker says which types there are.
        return
    if is_external(tensor) or dtype is ir.DataType.UNDEFINED:
        return
    if tensor.HasField("raw_data"):
        # Measured already, unless protobuf merged two into one; to read them here is to copy them.
        expected = _bytes_of(dtype, shape) if dtype.name != "STRING" else 0
        got = min(expected, size)
    else:
        got, expected = _stored(tensor, dtype, math.prod(shape))
    if got != expected:
        raise _not_whole(str(path), tensor.name, dtype, shape, f"{got:,} of them", expected)


def _stored(tensor: onnx.TensorProto, dtype: Any, count: int) -> tuple[int, int]:
    """What is there, and what there should be, of numbers that are written one by one."""
    if dtype.name == "STRING":
        return len(tensor.string_data), count
    numbers = sum(
        len(values)
        for values in (
            tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data,
        )
    )  # fmt: skip
    if dtype.bitwidth < 8:
        return numbers, -(-count * dtype.bitwidth // 8)
    return numbers, count * (2 if dtype.name.startswith("COMPLEX") else 1)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether its data is in a file beside the model."""
    import onnx

    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def external_tensors(path: Path, proto: onnx.ModelProto) -> list[tuple[onnx.TensorProto, str]]:
    """Those whose data lies in the file's folder, whole, each with the name of its file.

    Anything else would let a model read what it likes, or ask for memory that its files do not have.

    Raises:
        InputError: One is not so.
    """
    folder, found = path.parent.resolve(), []
    total = path.stat().st_size
    for tensor in tensors_of(proto):
        if not is_external(tensor):
            continue
        place = _place_of(path, tensor)
        location = place.get("location", "")
        file = folder / location
        if not location or "\0" in location or not file.resolve().is_relative_to(folder):
            raise InputError(
                f"{path} keeps weights outside its folder", got=f"{tensor.name} in {location!r}",
                expected="a file beside it, named without .. and without a root",
            )  # fmt: skip
        if not file.is_file():
            raise InputError(
                f"{path} keeps its weights in {location}, which is not there", remedy="copy both into one folder"
            )
        total += _require_inside(path, tensor, place, file.stat().st_size)
        # Several tensors may claim the same bytes, each of which would be read.
        require_within(f"{path}, with the weights beside it,", total, MAX_ONNX_BYTES, "bytes or more")
        found.append((tensor, location))
    return found


def _place_of(path: Path, tensor: onnx.TensorProto) -> dict[str, str]:
    """Each key once: of two, this check would read one, and who loads the data the other."""
    keys = [entry.key for entry in tensor.external_data]
    if len(set(keys)) < len(keys) or not set(keys) <= _KEYS:
        raise InputError(
            f"{path} does not say where the tensor {tensor.name!r} is",
            got=", ".join(keys[:8]),
            expected=f"each of {', '.join(sorted(_KEYS))} once at most",
        )
    return {entry.key: entry.value for entry in tensor.external_data}


def _require_inside(path: Path, tensor: onnx.TensorProto, place: dict[str, str], size: int) -> int:
    """Bytes of a tensor, which are in its file."""
    import onnx_ir as ir

    try:
        dtype = ir.DataType(tensor.data_type)
        needed = _bytes_of(dtype, tensor.dims)
        offset = int(place.get("offset", 0))
        length = int(place.get("length", max(0, size - offset)))
    except (ValueError, TypeError, KeyError) as exc:
        raise InputError(f"{path} does not say where the tensor {tensor.name!r} is", got=exc) from exc
    if offset < 0 or length != needed or offset + length > size:
        raise InputError(
            f"{path}: the tensor {tensor.name!r} is not whole in its file",
            got=f"{length:,} bytes from {offset:,} on, of {size:,}",
            expected=f"{needed:,} bytes for {dtype.name} {list(tensor.dims)}",
            remedy="copy both files again",
        )
    return needed
