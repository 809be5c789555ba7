"""The Open Inference Protocol, version 2, over HTTP: pure functions between bodies and arrays.

The protocol: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; tensors in
binary and classification are Triton's extensions of it (docs/protocol in triton-inference-server/server). Whatever a
client sends, these functions end in a request or in a `RequestError` that says what was wrong with it.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.errors import RequestError
from alexnet_deploy.limits import json_from_text
from alexnet_deploy.serving.model import VERSION, ServedModel
from alexnet_deploy.serving.options import MAX_BINARY_HEAD_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINARY_HEADER = "Inference-Header-Content-Length"
JSON_TYPE, BINARY_TYPE = "application/json", "application/octet-stream"
_FP32_BYTES = 4
_LONGEST_ID = 256
# In a request beside its numbers and their lists: names, parameters, outputs.
_OTHERS = 1000
# What numbers in lists are written with; the rest of a request is as short as before a binary tensor.
_OF_NUMBERS = b"0123456789+-.eE,[] \t\r\n"
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
# What an error quotes of a request: enough to see what it was, however large it was.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxlong = 3, 8, 8, 80, 40


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        images: `(N, 3, S, S) float32`.
        id: Given back in the answer.
        binary: The output comes as bytes, not as numbers in JSON.
        classification: The most likely classes in place of the row, so many of them; 0 for the row.
    """

    images: NDArray[np.float32]
    id: str | None = None
    binary: bool = False
    classification: int = 0


def request_from_body(body: bytes, head_bytes: str | None, model: ServedModel, max_batch: int) -> InferRequest:
    """Reads the body of an infer request.

    Args:
        body: As it came; its size is bounded by whoever read it.
        head_bytes: Value of `Inference-Header-Content-Length`; None where there is none, and all is JSON.
        model: What it is for.
        max_batch: The most images in one request.

    Raises:
        RequestError: 400; the message says what was wrong.
    """
    head_length = len(body) if head_bytes is None else _head_length(head_bytes, len(body))
    if head_bytes is not None and not head_length:
        return _raw_request(body, model, max_batch)
    head = body[:head_length]
    _require_no_more_than_a_batch(head, model, max_batch)
    document = _object(_parsed(head), "the request")
    entries = document.get("inputs")
    if not isinstance(entries, list) or len(entries) != 1:
        found = f"{len(entries)} inputs" if isinstance(entries, list) else _kind(entries)
        raise _wrong("the request must have one input", found, f"a list `inputs` with one tensor, {model.input!r}")
    entry = _object(entries[0], "an input")
    count = _count_from_entry(entry, model, max_batch)
    shape = (count, *model.image_shape)
    size = _binary_size(entry)
    tail = memoryview(body)[head_length:]
    if size is not None:
        if entry.get("data") is not None:
            raise _wrong("the input has its numbers twice", "data and binary_data_size", "one of them")
        _require_binary_size(tail, size, shape, head_bytes is not None)
        images = _images_from_bytes(tail, shape)
    else:
        if len(tail):
            raise _wrong("bytes follow the JSON that no input asks for", f"{len(tail)} bytes", "binary_data_size")
        images = _images_from_list(entry.get("data"), shape)
    _require_finite(images)
    binary, classification = _output_asked(document, model)
    return InferRequest(images=images, id=_id(document), binary=binary, classification=classification)


def _raw_request(body: bytes, model: ServedModel, max_batch: int) -> InferRequest:
    """Triton's raw binary request, without any JSON: the body is the one input, whose length says how many images it
    has, and the answer is binary too."""
    size = math.prod(model.image_shape) * _FP32_BYTES
    count, rest = divmod(len(body), size)
    if rest or not 1 <= count <= max_batch:
        raise _wrong("the raw tensor has another size", f"{len(body)} bytes", f"1 to {max_batch} times {size} bytes")
    images = _images_from_bytes(body, (count, *model.image_shape))
    _require_finite(images)
    return InferRequest(images=images, binary=True)


def _require_finite(images: NDArray[np.float32]) -> None:
    # They would come back as numbers that JSON does not have.
    if not np.isfinite(images).all():
        raise _wrong("the input holds a number that is not finite", "NaN or infinity", "finite numbers")


def _require_no_more_than_a_batch(head: bytes, model: ServedModel, max_batch: int) -> None:
    """Counts what JSON would be made of, before it is: a list of nothing takes twenty times its bytes in memory, a name
    of one letter fifteen times, a number of one digit nine times, and nobody is answered while they are parsed.

    Raises:
        RequestError: 400; there is more of it than the largest batch has.
    """
    channels, height, width = model.image_shape
    bounds = (
        ("lists", head.count(b"[") + head.count(b"{"), max_batch * (1 + channels * (1 + height)), "'[' and '{'"),
        ("numbers", head.count(b","), max_batch * channels * height * width, "','"),
    )
    for what, found, most, how in bounds:
        if found > most + _OTHERS:
            raise _wrong(f"the JSON has more {what} than the largest batch has", f"{found} of {how}", most + _OTHERS)
    other = len(head.translate(None, _OF_NUMBERS))
    if other > MAX_BINARY_HEAD_BYTES:
        raise _wrong("the JSON has more than numbers", f"{other} bytes of others", f"up to {MAX_BINARY_HEAD_BYTES}")


def response_from_output(
    rows: NDArray[np.float32], request: InferRequest, model: ServedModel
) -> tuple[bytes, dict[str, str]]:
    """The body of the answer, and its headers.

    Raises:
        RequestError: 400; the rows hold numbers that JSON does not have, which finite but huge inputs can lead to.
    """
    output: dict[str, Any] = {"name": model.output, "datatype": "FP32", "shape": list(rows.shape)}
    finite = bool(np.isfinite(rows).all())
    if not finite and not (request.binary and not request.classification):
        raise _wrong("the input leads to outputs that are not finite", "NaN or infinity", "images, preprocessed")
    tail = b""
    if request.classification:
        texts = [text for row in rows for text in _classes_of(row, request.classification, model)]
        output |= {"datatype": "BYTES", "shape": [len(rows), request.classification]}
        if request.binary:
            tail = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)
        else:
            output["data"] = texts
    elif request.binary:
        tail = rows.astype("<f4", copy=False).tobytes()
    else:
        # The shortest decimal that reads back as the same FP32 number.
        output["data"] = [float(str(number)) for number in rows.ravel()]
    if request.binary:
        output["parameters"] = {"binary_data_size": len(tail)}
    document: dict[str, Any] = {"model_name": model.name, "model_version": VERSION, "outputs": [output]}
    if request.id is not None:
        document["id"] = request.id
    head = json.dumps(document, separators=(",", ":")).encode()
    if not request.binary:
        return head, {"content-type": JSON_TYPE}
    return head + tail, {"content-type": BINARY_TYPE, BINARY_HEADER.lower(): str(len(head))}


def _classes_of(row: NDArray[np.float32], count: int, model: ServedModel) -> list[str]:
    best = np.argsort(-row, kind="stable")[:count]
    return [":".join([f"{row[i]:f}", str(i), *model.labels[i : i + 1]]) for i in best]


def _head_length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > most:
        raise _wrong(f"the header {BINARY_HEADER} does not fit", text, f"a number up to {most}, the body's bytes")
    if int(text) > MAX_BINARY_HEAD_BYTES:
        raise _wrong("the JSON before binary tensors is too long", f"{int(text)} bytes", f"{MAX_BINARY_HEAD_BYTES}")
    return int(text)


def _parsed(data: bytes) -> Any:
    try:
        # One character of four bytes among numbers would have Python keep every digit in as many.
        return json_from_text(_BEYOND_ASCII.sub(_escaped, data).decode("ascii"))
    except ValueError as exc:
        raise _wrong("the body is no JSON", exc, "an object, as the Open Inference Protocol has it") from exc


def _escaped(found: re.Match[bytes]) -> bytes:
    return json.dumps(found[0].decode())[1:-1].encode()


def _count_from_entry(entry: Mapping[str, Any], model: ServedModel, max_batch: int) -> int:
    if entry.get("name") != model.input:
        raise _wrong("there is no such input", _quoted(entry.get("name")), repr(model.input))
    if entry.get("datatype") != "FP32":
        raise _wrong(f"the input {model.input!r} has another type", _quoted(entry.get("datatype")), "'FP32'")
    shape, sides = entry.get("shape"), list(model.image_shape)
    # true is no side, and is equal to 1.
    sound = isinstance(shape, list) and len(shape) == 4 and all(type(side) is int for side in shape)
    if not isinstance(shape, list) or not sound or shape[1:] != sides or not 1 <= shape[0] <= max_batch:
        raise _wrong(
            f"the input {model.input!r} has another shape",
            _quoted(shape),
            f"[N, {', '.join(map(str, sides))}] with N from 1 to {max_batch}",
        )
    return int(shape[0])


def _binary_size(entry: Mapping[str, Any]) -> int | None:
    parameters = _parameters(entry, "of the input")
    if parameters.get("shared_memory_region") is not None:
        raise _wrong("the input is in shared memory, which this server does not read", "a region", "data")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise _wrong("binary_data_size is no size", _quoted(size), "a number of bytes")
    return size


def _require_binary_size(tail: memoryview, size: int, shape: tuple[int, ...], has_header: bool) -> None:
    if not has_header:
        raise _wrong(f"binary_data_size needs the header {BINARY_HEADER}", "none", "the length of the JSON")
    expected = math.prod(shape) * _FP32_BYTES
    if not size == len(tail) == expected:
        raise _wrong(
            "the binary tensor has another size",
            f"binary_data_size {size}, and {len(tail)} bytes after the JSON",
            f"{expected} bytes",
        )


def _images_from_bytes(data: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[np.float32]:
    # As little-endian, which the extension asks for; aligned and writable, which a slice of a body need not be.
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


def _images_from_list(data: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Numbers in one flat list, or nested as the shape is."""
    if not isinstance(data, list):
        raise _wrong("the input has no data", _kind(data), "a list of numbers")
    values = data
    if data and isinstance(data[0], list):
        if len(data) != shape[0]:
            raise _wrong("the data is nested otherwise than its shape", f"{len(data)} lists", list(shape))
        for side in shape[1:]:
            if any(type(row) is not list or len(row) != side for row in values):
                raise _wrong("the data is nested otherwise than its shape", f"other rows than of {side}", list(shape))
            values = list(chain.from_iterable(values))
    if len(values) != math.prod(shape):
        raise _wrong("the data does not fit its shape", f"{len(values)} values", f"{math.prod(shape)} numbers")
    if not set(map(type, values)) <= {int, float}:
        other = next(value for value in values if type(value) not in (int, float))
        raise _wrong("the data holds something else than numbers", _quoted(other), "numbers")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, np.float64).astype(np.float32).reshape(shape)
    except OverflowError as exc:
        raise _wrong("the data holds a number that FP32 does not", "an integer of many digits", "numbers") from exc


def _output_asked(document: Mapping[str, Any], model: ServedModel) -> tuple[bool, int]:
    """Whether the output comes in binary, and how many classes in its place."""
    wanted = _flag(_parameters(document, "of the request"), "binary_data_output", False)
    entries = document.get("outputs")
    if entries is None or entries == []:
        return wanted, 0
    if not isinstance(entries, list) or len(entries) != 1:
        count = f"{len(entries)} outputs" if isinstance(entries, list) else _kind(entries)
        raise _wrong("the model has one output", count, repr(model.output))
    entry = _object(entries[0], "an output")
    if entry.get("name") != model.output:
        raise _wrong("there is no such output", _quoted(entry.get("name")), repr(model.output))
    parameters = _parameters(entry, "of the output")
    if parameters.get("shared_memory_region") is not None:
        raise _wrong("the output would be in shared memory, which this server does not write", "a region", "none")
    count = _given(parameters, "classification", 0)
    if type(count) is not int or not 0 <= count <= model.classes:
        raise _wrong("classification is no number of classes", _quoted(count), f"0 to {model.classes}")
    return _flag(parameters, "binary_data", wanted), count


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = _given(parameters, name, default)
    if not isinstance(value, bool):
        raise _wrong(f"{name} is neither true nor false", _quoted(value), "true or false")
    return value


def _parameters(document: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    return _object(_given(document, "parameters", {}), f"`parameters` {where}")


def _given(document: Mapping[str, Any], name: str, default: Any) -> Any:
    """A field that may be left out, which many clients write as null."""
    value = document.get(name)
    return default if value is None else value


def _id(document: Mapping[str, Any]) -> str | None:
    found = document.get("id")
    if found is not None and (not isinstance(found, str) or len(found) > _LONGEST_ID):
        raise _wrong("the id is no short text", _quoted(found), f"up to {_LONGEST_ID} characters")
    return found


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} is no object", _kind(value), "an object")
    return value


def _kind(value: Any) -> str:
    kinds = {"NoneType": "nothing", "dict": "an object", "list": "a list", "str": "a text", "bool": "true or false"}
    return kinds.get(type(value).__name__, "a number")


def _quoted(value: Any) -> str:
    return _SHORT.repr(value)


def _wrong(problem: str, got: object, expected: object) -> RequestError:
    return RequestError(400, problem, got=got, expected=expected)
