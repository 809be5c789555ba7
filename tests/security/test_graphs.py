"""An ONNX file is held against itself before anything is made of it; what is fine still opens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy import graph_guard
from alexnet_deploy.errors import AlexnetDeployError, GraphError, InputError
from alexnet_deploy.graph import external_files, graph_bytes, inferred_copy, read_graph
from alexnet_deploy.graph_guard import proto_from_bytes
from alexnet_deploy.limits import MAX_GRAPH_FIELDS
from alexnet_deploy.normalise import normalise
from tests.graphs import small_graph
from tests.security import hostile
from tests.security.hostile import written


def saved(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    return written(folder / "x.onnx", model if isinstance(model, bytes) else model.SerializeToString())


def refused(path: Path, words: str) -> AlexnetDeployError:
    with pytest.raises(InputError, match=words) as caught:
        read_graph(path)
    return caught.value


# Before it is parsed


def test_the_walk_counts_what_protobuf_makes_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = hostile.network().SerializeToString()
    fields = sum(1 for _ in _all_fields(onnx.load_from_string(data)))
    monkeypatch.setattr(graph_guard, "MAX_GRAPH_FIELDS", fields)
    proto_from_bytes(data, "x")
    monkeypatch.setattr(graph_guard, "MAX_GRAPH_FIELDS", fields - 1)
    with pytest.raises(InputError, match="asks for too much"):
        proto_from_bytes(data, "x")


def _all_fields(message: object) -> list[object]:
    """By protobuf's own account, of numbers that are packed one for all."""
    found: list[object] = []
    for descriptor, value in message.ListFields():  # type: ignore[attr-defined]
        values = value if hasattr(value, "__len__") and not isinstance(value, str | bytes) else [value]
        if descriptor.message_type is not None:
            for each in values:
                found += [each, *_all_fields(each)]
        else:
            found += [values] if descriptor.has_options and descriptor.GetOptions().packed else list(values)
    return found


def test_a_real_graph_is_far_below_the_bounds() -> None:
    data = graph_bytes(small_graph())
    assert len(_all_fields(onnx.load_from_string(data))) < MAX_GRAPH_FIELDS / 1000
    proto_from_bytes(data, "x")


@pytest.mark.parametrize(
    ("limit", "value", "data"),
    [
        ("MAX_GRAPH_FIELDS", 1_000, hostile.empty_nodes(1_000)),
        ("MAX_PACKED_BYTES", 1_000, hostile.packed_numbers(1_001)),
        ("MAX_NESTING", 100, hostile.nested_graphs(33)),
        ("MAX_NAME_BYTES", 100, hostile.field(7, hostile.field(1, hostile.field(3, b"n" * 101)))),
        ("MAX_NAME_BYTES", 100, hostile.field(7, hostile.field(11, hostile.field(1, b"n" * 101)))),
    ],
    ids=["fields", "packed numbers", "nesting", "a node's name", "an input's name"],
)
def test_what_is_over_a_bound_is_refused_before_it_is_parsed(
    limit: str, value: int, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(_: bytes) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(graph_guard, limit, value)
    monkeypatch.setattr(onnx, "load_from_string", parsed)
    with pytest.raises(InputError, match="asks for too much") as caught:
        proto_from_bytes(data, "x")
    assert caught.value.got and caught.value.expected


@pytest.mark.parametrize(
    "data",
    [
        b"\x0b\x0c",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x3a\x7f\x0a",
        b"\x3a\x04\x0a\x05\x0a\x00",
        b"\x80",
        b"\x3a\xff\xff\xff\xff\x0f",
    ],
    ids=["a group", "a number without end", "cut short", "longer than what holds it", "half a tag", "four gigabytes"],
)
def test_what_is_not_protobuf_is_refused(data: bytes, tmp_path: Path) -> None:
    refused(saved(tmp_path, data), "not an ONNX file, or cut short")


# Against itself


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (hostile.claimed("t", [1 << 20, 1 << 20]), "does not hold what its shape says"),
        (hostile.claimed("t", [2]), "does not hold what its shape says"),
        (hostile.claimed("t", [1], b""), "does not hold what its shape says"),
        (hostile.claimed("t", [-1, -1]), "a shape that cannot be"),
        (hostile.claimed("t", [1] * 33), "a shape that cannot be"),
        (TensorProto(name="t", dims=[3], data_type=TensorProto.FLOAT, float_data=[1, 2]), "does not hold"),
        (TensorProto(name="t", dims=[1 << 40], data_type=TensorProto.INT64), "does not hold"),
        (TensorProto(name="t", dims=[9], data_type=TensorProto.STRING, string_data=[b"a"]), "does not hold"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(tensor: TensorProto, words: str, tmp_path: Path) -> None:
    error = refused(saved(tmp_path, hostile.network([tensor])), words)
    assert "'t'" in error.problem and error.expected


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    """protobuf joins two fields of one message: each holds what it says, and both together claim a terabyte."""
    part = hostile.claimed("t", [1 << 20], bytes(4 << 20)).SerializeToString()
    attribute = hostile.field(1, b"value") + hostile.field(5, part) * 2 + b"\xa0\x01\x04"
    node = hostile.field(2, b"c") + hostile.field(4, b"Constant") + hostile.field(5, attribute)
    data = hostile.network().SerializeToString() + hostile.field(7, hostile.field(1, node))
    refused(saved(tmp_path, data), "does not hold what its shape says")


@pytest.mark.parametrize("name", ["a node", "a graph inside", "a function"])
def test_every_place_of_a_tensor_is_checked(name: str, tmp_path: Path) -> None:
    bad = hostile.claimed("t", [1 << 30])
    constant = helper.make_node("Constant", [], ["c"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(bad)
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)])
    true = numpy_helper.from_array(np.asarray(True), "true")
    choice = helper.make_node("If", ["true"], ["z"], then_branch=inner, else_branch=inner)
    function = hostile.function("f", ["Relu"])
    function.node.append(constant)
    models = {
        "a node": hostile.network(nodes=[constant]),
        "a graph inside": hostile.network([true], [choice]),
        "a function": hostile.model_of(
            [helper.make_node("f", ["x"], ["y"], domain="evil")], functions=[function], domains=["evil"]
        ),
    }
    refused(saved(tmp_path, models[name]), "does not hold what its shape says")


@pytest.mark.parametrize("data_type", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("raw", [True, False])
def test_whole_tensors_of_narrow_types_are_taken(data_type: int, raw: bool) -> None:
    values = helper.make_tensor("t", data_type, [3, 3], np.ones(9, np.float32).tolist())
    if raw:
        values = numpy_helper.from_array(numpy_helper.to_array(values), "t")
    graph_guard._require_whole(Path("x"), values, 1_000)
    graph_guard.proto_from_bytes(hostile.network([values]).SerializeToString(), "x")


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ({"f": ["f"]}, "functions that call themselves"),
        ({"f": ["g"], "g": ["h"], "h": ["f"]}, "functions that call themselves"),
    ],
    ids=["itself", "in a ring"],
)
def test_functions_that_never_end_are_refused(calls: dict[str, list[str]], words: str, tmp_path: Path) -> None:
    functions = [hostile.function(name, called) for name, called in calls.items()]
    node = helper.make_node("f", ["x"], ["y"], domain="evil")
    error = refused(saved(tmp_path, hostile.model_of([node], functions=functions, domains=["evil"])), words)
    assert "evil:f calls" in str(error.got)


@pytest.mark.parametrize(("depth", "width", "fine"), [(4, 10, True), (5, 10, False), (60, 60, False)])
def test_functions_are_counted_written_out(depth: int, width: int, fine: bool, tmp_path: Path) -> None:
    path = saved(tmp_path, hostile.function_bomb(depth, width))
    if fine:
        assert read_graph(path).functions
    else:
        refused(path, "with its functions written out")


def test_a_ring_of_nodes_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    refused(saved(tmp_path, hostile.network(nodes=nodes)), "not a valid ONNX file")


def test_sparse_weights_and_training_are_refused(tmp_path: Path) -> None:
    sparse, training = hostile.network(), hostile.network()
    sparse.graph.sparse_initializer.add(dims=[1 << 20, 1 << 20]).values.CopyFrom(hostile.claimed("s", [1]))
    training.training_info.add()
    refused(saved(tmp_path, sparse), "in sparse form")
    refused(saved(tmp_path, training), "for training")


# Beside the file


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(100))
    tensor = hostile.external("e", [10], location="w.bin", offset=60, length=40)
    path = saved(tmp_path, hostile.network([tensor]))
    assert external_files(path) == [tmp_path / "w.bin"]
    assert read_graph(path).graph.initializers["e"].const_value is not None


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"location": "../secret"}, "outside its folder"),
        ({"location": "/etc/passwd"}, "outside its folder"),
        ({"location": ""}, "outside its folder"),
        ({}, "outside its folder"),
        ({"location": "link"}, "outside its folder"),
        ({"location": "folder/../../secret"}, "outside its folder"),
        ({"location": "linked/secret"}, "outside its folder"),
        ({"location": "w.bin\0.."}, "outside its folder"),
        ({"location": "pipe"}, "which is not there"),
        ({"location": "folder"}, "which is not there"),
        ({"location": "w.bin", "offset": -4}, "not whole in its file"),
        ({"location": "w.bin", "length": -40}, "not whole in its file"),
        ({"location": "w.bin", "offset": 64, "length": 40}, "not whole in its file"),
        ({"location": "w.bin", "length": 1 << 40}, "not whole in its file"),
        ({"location": "w.bin", "length": 36}, "not whole in its file"),
        ({"location": "w.bin", "offset": "many"}, "does not say where"),
        ({"location": "w.bin", "loader": "x"}, "does not say where"),
    ],
)
def test_weights_that_are_not_there_are_refused(place: dict[str, object], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(40))
    (folder / "w.bin").write_bytes(bytes(100))
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    path = saved(folder, hostile.network([hostile.external("e", [10], **place)]))
    refused(path, words)
    with pytest.raises(InputError, match=words):
        external_files(path)


def test_a_place_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    """This check would read the first, and who loads the data the last."""
    (tmp_path / "w.bin").write_bytes(bytes(40))
    tensor = hostile.external("e", [10], location="w.bin")
    tensor.external_data.add(key="location", value="../secret")
    refused(saved(tmp_path, hostile.network([tensor])), "does not say where")


def test_weights_of_functions_stay_in_the_folder_too(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"])
    outside = hostile.external("e", [10], location="../secret")
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside)
    function = hostile.function("f", ["Relu"])
    function.node.append(constant)
    node = helper.make_node("f", ["x"], ["y"], domain="evil")
    refused(saved(tmp_path, hostile.model_of([node], functions=[function], domains=["evil"])), "outside its folder")


# What is made of it


def opened(model: onnx.ModelProto, folder: Path) -> None:
    normalise(read_graph(saved(folder, model)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: hostile.constant_of_shape([1 << 20, 1 << 20]),
        lambda: hostile.constant_of_shape([25_000_000], 11),
        lambda: hostile.expanded([1, 3, 1 << 20, 1 << 20]),
    ],
    ids=["one constant", "many constants", "a result"],
)
def test_what_a_graph_only_describes_is_bounded(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="asks for too much"):
        opened(make(), tmp_path)


def test_constants_of_a_common_size_are_made(tmp_path: Path) -> None:
    model = normalise(read_graph(saved(tmp_path, hostile.constant_of_shape([3, 8, 8])))).model
    assert "ConstantOfShape" not in [node.op_type for node in model.graph]


def test_names_of_a_graph_of_one_layer_are_made_in_linear_time(tmp_path: Path) -> None:
    """Ten thousand nameless nodes of one kind: trying every name for each would take 50 million steps."""
    count = 10_000
    names = ["x", *(f"v{index}" for index in range(count - 1)), "y"]
    nodes = [helper.make_node("Relu", [names[index]], [names[index + 1]]) for index in range(count)]
    steps = 0

    class Counted(set[str]):
        def __contains__(self, item: object) -> bool:
            nonlocal steps
            steps += 1
            return super().__contains__(item)

    from alexnet_deploy import normalise as module

    model = read_graph(saved(tmp_path, hostile.model_of(nodes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "set", Counted, raising=False)
        module.name_layers(model, rename=False)
    assert len({node.name for node in model.graph}) == count
    assert steps < 3 * count


def test_a_band_of_a_million_channels_is_refused() -> None:
    import onnx_ir as ir

    from alexnet_deploy.lrn.lowering import lower_to_banded

    node = helper.make_node("LRN", ["x"], ["y"], size=5, name="norm")
    model = ir.from_proto(hostile.model_of([node], shape=["N", 1 << 20, 8, 8]))
    with pytest.raises(GraphError, match="the band of norm asks for too much"):
        lower_to_banded(model)


def test_a_description_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_deploy import graph

    model = hostile.network()
    model.metadata_props.add(key="alexnet_deploy.model", value="[" * 100_000)
    read = read_graph(saved(tmp_path, model))
    with pytest.raises(InputError, match="metadata cannot be read"):
        graph.info_of(read)
    monkeypatch.setattr(graph, "MAX_DESCRIPTION_CHARACTERS", 99_999)
    with pytest.raises(InputError, match="asks for too much"):
        graph.info_of(read)


def test_shapes_of_the_network_itself_are_within_the_bounds() -> None:
    inferred_copy(small_graph())
