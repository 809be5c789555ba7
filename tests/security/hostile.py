"""Files that a stranger might hand over: small on disk, and asking for far more than they are."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import zstandard
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.torch import save

from tests.conftest import small_info, small_network
from tests.report.documents import HOSTILE, spoiled

# An escape sequence that sets the title of a terminal, one that colours, a bell, a line of its own, a mark that turns
# the direction, markup of rich, of HTML and of Markdown, a link that runs, and quotes.
ANSI = "\x1b]0;owned\x07\x1b[31mred"
NASTY = f'{ANSI}\r\n\u202egnp.exe\u2069[/bold][link=file:///]<script>alert("x")</script>\'[a](javascript:alert(1))|`x`\x9b2J'
# What none of the outputs may hold.
CONTROLS = frozenset(map(chr, [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0)])) | set("\u202e\u2069")


def written(path: Path, data: bytes) -> Path:
    """The file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# Checkpoints


def safetensors(tensors: Mapping[str, torch.Tensor], model: Mapping[str, Any] | None = None, **described: Any) -> bytes:
    """A checkpoint with any description."""
    whole = {"schema": 1, "model": dict(model or small_info().to_json()), "sparse": {}} | described
    return save(dict(tensors), {"alexnet_deploy": json.dumps(whole)})


def giant_model() -> dict[str, Any]:
    """The description of a network of 131 GB."""
    values = small_info().to_json()
    return values | {"labels": [], "network": values["network"] | {"width": 8.0, "classes": 1_000_000}}


def zstd_that_claims(size: int, content: bytes) -> bytes:
    """A frame whose header says any size (RFC 8878, section 3.1.1): one raw block with the content."""
    header = struct.pack("<IBBQ", 0xFD2FB528, 0xC0, 0x00, size)
    return header + struct.pack("<I", len(content) << 3 | 1)[:3] + content


def header_that_claims(size: int) -> bytes:
    """The begin of a safetensors file of that size."""
    fields = {"w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
    for _ in range(3):
        length = size - 8 - len(json.dumps(fields))
        fields["w"] |= {"shape": [length], "data_offsets": [0, length]}
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text


def torch_file(value: Any, **options: Any) -> bytes:
    """What `torch.save` writes."""
    target = io.BytesIO()
    torch.save(value, target, **options)
    return target.getvalue()


def stretched_state(classes: int = 1_000_000) -> dict[str, torch.Tensor]:
    """Every weight of the largest network, each one number that is repeated."""
    from alexnet_deploy.variants import NetworkSpec
    from alexnet_deploy.weights import _shapes_of

    # The one variant that its shapes tell from all others.
    spec = NetworkSpec(variant="unpadded", width=8.0, classes=classes)
    return {name: torch.zeros(1).expand(shape) for name, shape in _shapes_of(spec).items()}


def repacked(data: bytes, *, compress: bool = True, claim: int | None = None) -> bytes:
    """A file of torch whose members are compressed, or whose directory says that one unpacks to more."""
    target = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(target, "w", kind) as after:
        for member in before.infolist():
            after.writestr(member.filename, before.read(member))
        if claim is not None:
            after.infolist()[-1].file_size = claim
    return target.getvalue()


def archive_of_many(members: int) -> bytes:
    """The end of an archive that says how many members it has; nothing else of it is there."""
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    zip64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, members, members, 46 * members, 64)
    return b"PK\3\4" + bytes(60) + zip64 + struct.pack("<IIQI", 0x07064B50, 0, 64, 1) + end


# ONNX


def model_of(
    nodes: Sequence[onnx.NodeProto],
    *,
    constants: Sequence[TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    shape: Sequence[int | str] = ("N", 3, 8, 8),
    result: Sequence[int | str] | None = None,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model from `x` to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(shape if result is None else result))],
        list(constants),
    )
    imports = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def network(constants: Sequence[TensorProto] = (), nodes: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    """A small classifier, which everything opens."""
    flat = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    weight = onnx.numpy_helper.from_array(np.zeros((192, 10), np.float32), "w")
    return model_of([*nodes, *flat], constants=[weight, *constants], result=["N", 10])


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """As protobuf writes it."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def empty_nodes(count: int) -> bytes:
    """Two bytes a node."""
    return field(7, b"\x0a\x00" * count)


def packed_numbers(count: int) -> bytes:
    """A tensor of zeros of 64 bits, one byte each."""
    return field(7, field(5, field(7, bytes(count))))


def nested_graphs(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on; written from inside to outside."""
    inner = b""
    for _ in range(depth):
        inner = field(1, field(5, field(6, inner)))
    return field(7, inner)


def function(name: str, calls: Sequence[str]) -> onnx.FunctionProto:
    """A function that calls others one after the other."""
    values = ["a", *(f"v{index}" for index in range(len(calls) - 1)), "b"]
    nodes = [
        helper.make_node(call, [values[index]], [values[index + 1]], domain="" if call == "Relu" else "evil")
        for index, call in enumerate(calls)
    ]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    return helper.make_function("evil", name, ["a"], ["b"], nodes, imports)


def function_bomb(depth: int, width: int) -> onnx.ModelProto:
    """Functions that call the one below `width` times each: `width**depth` nodes."""
    functions = [function("f0", ["Relu"] * width)]
    functions += [function(f"f{level}", [f"f{level - 1}"] * width) for level in range(1, depth)]
    node = helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="evil")
    return model_of([node], functions=functions, domains=["evil"])


def claimed(
    name: str, dims: Sequence[int], raw: bytes = b"\0\0\0\0", data_type: int = TensorProto.FLOAT
) -> TensorProto:
    """A tensor with any shape over any bytes."""
    return TensorProto(name=name, dims=dims, raw_data=raw, data_type=data_type)


def external(name: str, dims: Sequence[int], **place: object) -> TensorProto:
    """A tensor beside the file."""
    tensor = TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def constant_of_shape(sides: Sequence[int], count: int = 1) -> onnx.ModelProto:
    """Constants of which the file holds the shape alone."""
    shape = onnx.numpy_helper.from_array(np.asarray(sides, np.int64), "s")
    nodes = [helper.make_node("ConstantOfShape", ["s"], [f"c{index}"]) for index in range(count)]
    nodes += [helper.make_node("ReduceSum", [f"c{index}"], [f"r{index}"], keepdims=0) for index in range(count)]
    nodes += [helper.make_node("Add", ["x", "r0"], ["y"])]
    return model_of(nodes, constants=[shape])


def expanded(sides: Sequence[int]) -> onnx.ModelProto:
    """A result far larger than what it is made of."""
    shape = onnx.numpy_helper.from_array(np.asarray(sides, np.int64), "s")
    nodes = [helper.make_node("Expand", ["x", "s"], ["e"]), helper.make_node("ReduceMax", ["e"], ["y"])]
    return model_of(nodes, constants=[shape], shape=[1, 3, 1, 1], result=[1, 1, 1, 1])


# Images and data


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one bit a pixel, all black, with any chunks before its pixels."""
    packer, packed = zlib.compressobj(9), b""
    row = bytes(1 + -(-width // 8))
    for _ in range(height):
        packed += packer.compress(row)
    packed += packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def webp_canvas(side: int) -> bytes:
    """The header of an animation of that side, and one frame that is not there (RFC 9649)."""
    canvas = struct.pack("<I", side - 1)[:3] * 2
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas
    chunks += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def endless_idx(shape: Sequence[int], follow: int) -> bytes:
    """A gzipped idx file of a shape, with so many zeros behind its header, a member of a megabyte each."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape)
    return gzip.compress(header) + gzip.compress(bytes(1 << 20)) * (follow >> 20)


# Documents


def table(tensors: Mapping[str, Mapping[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A calibration table."""
    return {
        "schema": 2, "method": "entropy", "percentile": 99.99, "graph_sha256": "0" * 64, "preprocessing": "0" * 16,
        "images": 0, "images_sha256": [], "tensors": dict(tensors or {}),
    } | changes  # fmt: skip


def histogram(counts: NDArray[np.int64] | bytes | None = None) -> dict[str, Any]:
    """An entry of a table: right, or with counts that unpack to something else."""
    from alexnet_deploy.precision.histogram import Histogram

    values: dict[str, Any] = Histogram(minimum=0.0, maximum=1.0).to_json()
    if counts is not None:
        raw = counts if isinstance(counts, bytes) else counts.astype("<i8").tobytes()
        values["counts"] = base64.b64encode(zlib.compress(raw, 9)).decode()
    thresholds = dict.fromkeys(("max", "percentile", "entropy", "mse"), 1.0)
    return {"min": 0.0, "max": 1.0, "thresholds": thresholds, "scales": thresholds, "histogram": values}


def zlib_bomb(megabytes: int) -> str:
    """Base64 of zeros that were packed."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()
    return base64.b64encode(packed).decode()


def zstd_bomb(megabytes: int) -> bytes:
    """Zeros that were packed, with their size."""
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=megabytes << 20)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


def small_state() -> dict[str, torch.Tensor]:
    """The weights of a small network."""
    return dict(small_network().state_dict())


def nasty(values: dict[str, Any]) -> dict[str, Any]:
    """A document of a bench with everything that is hostile at the end of every text."""
    plain, wanted = (json.dumps(words)[1:-1] for words in (HOSTILE, NASTY))
    found: dict[str, Any] = json.loads(json.dumps(spoiled(values)).replace(plain, wanted))
    return found
