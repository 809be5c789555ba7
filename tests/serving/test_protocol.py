"""Requests and answers of the Open Inference Protocol, and that nothing a client sends ends otherwise than refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import RequestError
from alexnet_deploy.serving.protocol import InferRequest, request_from_body, response_from_output
from tests.serving.models import CLASSES, LABELS, SIDE, binary_body, images, json_body, model, tensor

MAX_BATCH = 4
SHAPE = [1, 3, SIDE, SIDE]


def read(body: bytes, head: str | None = None) -> InferRequest:
    return request_from_body(body, head, model(), MAX_BATCH)


def test_numbers_in_json_come_as_they_were_sent() -> None:
    sent = images(2)
    found = read(json_body(sent, id="seven"))
    assert found.images.dtype == np.float32 and found.images.flags.c_contiguous
    np.testing.assert_array_equal(found.images, sent)
    assert found.id == "seven" and not found.binary and found.classification == 0


def test_nested_numbers_are_the_flat_ones() -> None:
    sent = images(2)
    np.testing.assert_array_equal(read(json_body(sent, inputs=[tensor(sent, data=sent.tolist())])).images, sent)


def test_binary_tensors_come_to_the_last_bit() -> None:
    sent = images(3)
    found = read(*binary_body(sent, parameters={"binary_data_output": True}))
    np.testing.assert_array_equal(found.images, sent)
    assert found.binary and found.images.flags.writeable


def test_a_raw_tensor_is_the_whole_body_and_answered_in_binary() -> None:
    sent = images(3)
    found = read(sent.tobytes(), "0")
    np.testing.assert_array_equal(found.images, sent)
    assert found.binary and found.images.flags.writeable


def test_the_whole_body_may_be_json_with_the_header() -> None:
    body = json_body(images())
    np.testing.assert_array_equal(read(body, str(len(body))).images, images())


def test_an_output_may_be_asked_for_by_name() -> None:
    asked = {"name": "logits", "parameters": {"binary_data": True, "classification": 3}}
    found = read(json_body(images(), outputs=[asked]))
    assert found.binary and found.classification == 3
    assert not read(json_body(images(), outputs=[{"name": "logits"}])).binary
    # What one output says goes before what is said of all.
    parameters = {"binary_data_output": True}
    asked = {"name": "logits", "parameters": {"binary_data": False}}
    assert not read(json_body(images(), outputs=[asked], parameters=parameters)).binary
    assert read(json_body(images(), outputs=[{"name": "logits"}], parameters=parameters)).binary


def test_null_is_what_was_left_out() -> None:
    """As clients write it whose fields are always there."""
    values = images()
    asked = {
        "name": "logits",
        "parameters": {"classification": None, "binary_data": None, "shared_memory_region": None},
    }
    for outputs in (None, [asked], [asked | {"parameters": None}]):
        found = read(json_body(values, inputs=[tensor(values, parameters=None)], outputs=outputs, parameters=None))
        np.testing.assert_array_equal(found.images, values)
        assert found.id is None and not found.binary and found.classification == 0
    assert not read(json_body(values, parameters={"binary_data_output": None})).binary
    entry = tensor(values, data=None, parameters={"binary_data_size": 768, "shared_memory_region": None})
    head = json.dumps({"inputs": [entry]}).encode()
    np.testing.assert_array_equal(read(head + values.tobytes(), str(len(head))).images, values)


def test_letters_beyond_ascii_come_as_they_were_sent() -> None:
    for name in ("größe", "\U0001f600", "\u65e5\u672c"):
        assert read(json.dumps({"inputs": [tensor(images())], "id": name}, ensure_ascii=False).encode()).id == name


def test_json_is_counted_before_anything_is_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(text: str) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr("alexnet_deploy.serving.protocol.json_from_text", parsed)
    for body, words in (
        (b'{"inputs": [' + b"[]," * 2_000 + b"[]]}", "more lists"),
        (b"[" + b"0," * 2_000 + b"0]", "more numbers than the largest batch has; got: 2000 of ','; expected: 1768"),
        (b'["' + b"x" * 70_000 + b'"]', "more than numbers; got: 70002 bytes"),
        (b"{" + b"".join(b'"%x":0,' % i for i in range(0xAAAA, 0xAAAA + 1_700)) * 7 + b"}", "more numbers"),
        ("\u00fc".encode() * 40_000, "more than numbers; got: 80000 bytes"),
    ):
        with pytest.raises(RequestError) as refused:
            read(body)
        assert refused.value.status == 400 and words in refused.value.line


def with_input(**changes: Any) -> bytes:
    return json.dumps({"inputs": [tensor(images(), **changes)]}).encode()


def without(name: str) -> bytes:
    entry = tensor(images())
    del entry[name]
    return json.dumps({"inputs": [entry]}).encode()


WRONG: dict[str, tuple[bytes, str | None, tuple[str, ...]]] = {
    "nothing": (b"", None, ("no JSON",)),
    "no JSON": (b"{", None, ("no JSON",)),
    "no UTF-8": (b"\xff\xfe{}", None, ("no JSON",)),
    "NaN": (b'{"inputs": NaN}', None, ("no JSON", "NaN")),
    "too deep": (b"[" * 1_050, None, ("no JSON", "nested too deeply")),
    "many lists": (b'{"inputs": [' + b"[]," * 30_000 + b"[]]}", None, ("more lists than the largest batch", "30003")),
    "a raw tensor cut short": (images().tobytes()[:-4], "0", ("raw tensor", "764 bytes", "times 768 bytes")),
    "a raw tensor of nothing": (b"", "0", ("raw tensor", "0 bytes")),
    "a raw tensor of NaN": (np.full(192, np.nan, np.float32).tobytes(), "0", ("not finite",)),
    "a huge integer": (b'{"inputs": ' + b"9" * 5000 + b"}", None, ("no JSON",)),
    "a list": (b"[]", None, ("the request is no object", "a list")),
    "no inputs": (b"{}", None, ("one input", "nothing")),
    "two inputs": (json_body(images(), inputs=[tensor(images())] * 2), None, ("one input", "2 inputs")),
    "an input that is a number": (json_body(images(), inputs=[3]), None, ("an input is no object", "a number")),
    "another name": (with_input(name="picture"), None, ("no such input", "'picture'", "'input'")),
    "no name": (without("name"), None, ("no such input", "None", "'input'")),
    "another type": (with_input(datatype="UINT8"), None, ("another type", "'UINT8'", "'FP32'")),
    "no type": (without("datatype"), None, ("another type", "None", "'FP32'")),
    "another shape": (with_input(shape=[1, 3, 9, 8]), None, ("another shape", "[1, 3, 9, 8]", "[N, 3, 8, 8]")),
    "no shape": (without("shape"), None, ("another shape", "None")),
    "a flat shape": (with_input(shape=[192]), None, ("another shape", "[192]")),
    "no images": (with_input(shape=[0, 3, 8, 8]), None, ("another shape", "N from 1 to 4")),
    "too many images": (json_body(images(5)), None, ("another shape", "[5, 3, 8, 8]", "N from 1 to 4")),
    "a negative side": (with_input(shape=[-1, 3, 8, 8]), None, ("another shape",)),
    "a true side": (with_input(shape=[True, 3, 8, 8]), None, ("another shape",)),
    "a broken side": (with_input(shape=[1.0, 3, 8, 8]), None, ("another shape",)),
    "no data": (without("data"), None, ("no data", "nothing")),
    "data that is a text": (with_input(data="AAAA"), None, ("no data", "a text")),
    "too little data": (with_input(data=[1.0]), None, ("does not fit", "1 values", "192 numbers")),
    "texts": (with_input(data=["1"] * 192), None, ("else than numbers", "'1'")),
    "true": (with_input(data=[True] * 192), None, ("else than numbers", "True")),
    "null": (with_input(data=[None] * 192), None, ("else than numbers", "None")),
    "lists too deep": (with_input(data=[[[[[1.0]] * 8] * 8] * 3]), None, ("else than numbers", "[1.0]")),
    "ragged lists": (with_input(data=[[[[1.0] * 8] * 7] * 3]), None, ("nested otherwise", "of 8")),
    "a list and a number": (with_input(data=[[1.0], 2.0]), None, ("nested otherwise", "2 lists")),
    "beyond FP32": (with_input(data=[1e39] * 192), None, ("not finite",)),
    "beyond floats": (with_input(data=[10**400] * 192), None, ("FP32 does not",)),
    "shared memory": (with_input(parameters={"shared_memory_region": "x"}), None, ("shared memory",)),
    "parameters that are a list": (with_input(parameters=[]), None, ("`parameters` of the input is no object",)),
    "a size without the header": (with_input(parameters={"binary_data_size": 4}), None, ("twice",)),
    "no such output": (json_body(images(), outputs=[{"name": "x"}]), None, ("no such output", "'x'", "'logits'")),
    "two outputs": (json_body(images(), outputs=[{"name": "logits"}] * 2), None, ("one output", "2 outputs")),
    "an output that is a text": (json_body(images(), outputs=["logits"]), None, ("an output is no object",)),
    "outputs that are an object": (json_body(images(), outputs={"name": 1}), None, ("one output", "an object")),
    "too many classes": (
        json_body(images(), outputs=[{"name": "logits", "parameters": {"classification": 11}}]),
        None,
        ("classification", "11", "0 to 10"),
    ),
    "binary that is a number": (
        json_body(images(), parameters={"binary_data_output": 1}), None, ("neither true nor false",)
    ),
    "an id that is a number": (json_body(images(), id=7), None, ("the id", "7")),
    "a long id": (json_body(images(), id="x" * 1000), None, ("the id", "256")),
    "a header that is no number": (json_body(images()), "-1", ("Inference-Header-Content-Length", "-1")),
    "a header beyond the body": (b"{}", "3", ("Inference-Header-Content-Length", "up to 2")),
    "a header with other digits": (b"{}", "\u00b2", ("Inference-Header-Content-Length",)),
    "bytes that nobody asked for": (json_body(images()) + b"\0", str(len(json_body(images()))), ("bytes follow",)),
    "a long head": (b" " * 100_000, "70000", ("too long", "65536")),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str) -> None:
    body, head, words = WRONG[name]
    with pytest.raises(RequestError) as refused:
        read(body, head)
    assert refused.value.status == 400
    assert "\n" not in refused.value.line and len(refused.value.line) < 600
    for word in words:
        assert word in refused.value.line


@pytest.mark.parametrize("change", [-1, 1, 4])
def test_a_binary_tensor_of_another_size_is_refused(change: int) -> None:
    body, head = binary_body(images())
    body = body[:change] if change < 0 else body + b"\0" * change
    with pytest.raises(RequestError, match="another size") as refused:
        read(body, head)
    assert "768 bytes" in refused.value.line


@pytest.mark.parametrize("size", [-1, 767, 10**30, True, "768", None])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    values = images()
    entry = tensor(values, parameters={"binary_data_size": size})
    del entry["data"]
    head = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(RequestError) as refused:
        read(head + values.tobytes(), str(len(head)))
    assert refused.value.status == 400


def test_binary_infinity_is_refused() -> None:
    values = images()
    values[0, 0, 0, 0] = np.nan
    with pytest.raises(RequestError, match="not finite"):
        read(*binary_body(values))


def test_an_answer_in_json_reads_back_to_the_last_bit() -> None:
    rows = np.random.default_rng(1).normal(size=(2, CLASSES)).astype(np.float32)
    body, headers = response_from_output(rows, read(json_body(images(2), id="a")), model())
    document = json.loads(body)
    assert headers == {"content-type": "application/json"}
    assert {name: document[name] for name in ("model_name", "model_version", "id")} == {
        "model_name": "fake", "model_version": "1", "id": "a",
    }  # fmt: skip
    (output,) = document["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [2, CLASSES])
    np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(2, CLASSES), rows)


def test_an_answer_in_binary_follows_its_json() -> None:
    rows = np.random.default_rng(1).normal(size=(2, CLASSES)).astype(np.float32)
    body, headers = response_from_output(
        rows, read(*binary_body(images(2), parameters={"binary_data_output": True})), model()
    )
    length = int(headers["inference-header-content-length"])
    (output,) = json.loads(body[:length])["outputs"]
    assert headers["content-type"] == "application/octet-stream"
    assert output["parameters"] == {"binary_data_size": 4 * rows.size} and "data" not in output
    np.testing.assert_array_equal(np.frombuffer(body[length:], "<f4").reshape(rows.shape), rows)


def asked_for_classes(count: int, *, binary: bool) -> InferRequest:
    parameters = {"classification": count, "binary_data": binary}
    return read(json_body(images(2), outputs=[{"name": "logits", "parameters": parameters}]))


def test_classes_come_most_likely_first() -> None:
    rows = np.arange(2 * CLASSES, dtype=np.float32).reshape(2, CLASSES)
    body, _ = response_from_output(rows, asked_for_classes(2, binary=False), model())
    (output,) = json.loads(body)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == [
        "9.000000:9:class 9", "8.000000:8:class 8", "19.000000:9:class 9", "18.000000:8:class 8",
    ]  # fmt: skip
    body, headers = response_from_output(rows, asked_for_classes(1, binary=True), model(labels=()))
    texts = body[int(headers["inference-header-content-length"]) :]
    assert texts == b"\x0a\0\0\x009.000000:9\x0b\0\0\x0019.000000:9"


def test_outputs_that_json_does_not_have_are_refused() -> None:
    rows = np.full((1, CLASSES), np.inf, np.float32)
    with pytest.raises(RequestError, match="not finite"):
        response_from_output(rows, read(json_body(images())), model())
    body, headers = response_from_output(
        rows, read(json_body(images(), parameters={"binary_data_output": True})), model()
    )
    assert np.isinf(np.frombuffer(body[int(headers["inference-header-content-length"]) :], "<f4")).all()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([*LABELS, "FP32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200), st.none() | st.text(max_size=6))
def test_any_bytes_are_refused(body: bytes, head: str | None) -> None:
    with pytest.raises(RequestError) as refused:
        read(body, head)
    assert refused.value.status == 400


@given(
    st.dictionaries(st.sampled_from(["inputs", "outputs", "parameters", "id"]), VALUES),
    st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), VALUES),
)
def test_any_json_is_read_or_refused(whole: dict[str, Any], entry: dict[str, Any]) -> None:
    document = {"inputs": [tensor(images()) | entry]} | whole
    try:
        found = read(json.dumps(document).encode())
    except RequestError as refused:
        assert refused.status == 400 and refused.line
    else:
        assert list(found.images.shape) == SHAPE


@given(st.data())
def test_a_damaged_binary_request_is_read_or_refused(data: st.DataObject) -> None:
    body, head = binary_body(images())
    at = data.draw(st.integers(0, int(head) - 1))
    damaged = bytearray(body)
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        assert list(read(bytes(damaged), head).images.shape) == SHAPE
    except RequestError as refused:
        assert refused.status == 400 and refused.line
