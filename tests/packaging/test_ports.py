"""Names, types and shapes are the artifact's own; what a backend could not run is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from alexnet_deploy.artifacts import Passport
from alexnet_deploy.errors import ArtifactError, GraphError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.packaging.ports import Port, ports_of_engine, ports_of_graph

Shape = tuple[int | str, ...]


def graph_file(
    path: Path,
    *,
    image: Shape = ("N", 3, 8, 8),
    logits: Shape = ("N", 192),
    type_: int = TensorProto.FLOAT,
    inputs: int = 1,
    domain: str = "",
    inside: bool = False,
) -> Path:
    """A graph that flattens its input, or has an operator of that domain."""
    named = [helper.make_tensor_value_info(f"image{at or ''}", type_, image) for at in range(inputs)]
    node = helper.make_node("Flatten" if domain == "" else "Mystery", ["image"], ["logits"], domain=domain)
    if inside:
        body = helper.make_graph([node], "body", [], [helper.make_tensor_value_info("logits", type_, logits)])
        truth = helper.make_node("Constant", [], ["truth"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
        nodes = [truth, helper.make_node("If", ["truth"], ["logits"], then_branch=body, else_branch=body)]
    else:
        nodes = [node]
    graph = helper.make_graph(nodes, "graph", named, [helper.make_tensor_value_info("logits", type_, logits)])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graph.onnx"


@pytest.mark.parametrize(
    ("type_", "named"),
    [(TensorProto.FLOAT, "TYPE_FP32"), (TensorProto.FLOAT16, "TYPE_FP16"), (TensorProto.BFLOAT16, "TYPE_BF16")],
)
def test_names_types_and_shapes_are_the_graphs(path: Path, type_: int, named: str) -> None:
    found = ports_of_graph(graph_file(path, type_=type_))
    assert found.input == Port(name="image", data_type=named, shape=(-1, 3, 8, 8))
    assert found.output == Port(name="logits", data_type=named, shape=(-1, 192))
    assert (found.least, found.most, found.fixed, found.classes) == (1, None, False, 192)


def test_a_fixed_batch_is_the_only_one(path: Path) -> None:
    found = ports_of_graph(graph_file(path, image=(4, 3, 8, 8), logits=(4, 192)))
    assert (found.least, found.most, found.fixed) == (4, 4, True)


def test_an_output_of_a_fixed_batch_fixes_it_too(path: Path) -> None:
    """Triton's ONNX Runtime backend does not batch for such a graph, and refuses a configuration that says it would."""
    assert ports_of_graph(graph_file(path, logits=(1, 192))).fixed


@pytest.mark.parametrize("inside", [False, True], ids=["in the graph", "in a branch"])
def test_an_operator_of_another_domain_is_named(path: Path, inside: bool) -> None:
    with pytest.raises(GraphError, match="backend does not") as caught:
        ports_of_graph(graph_file(path, domain="alexnet_deploy", inside=inside))
    assert caught.value.got == "alexnet_deploy::Mystery"


def test_a_domain_that_the_backend_has_is_taken(path: Path) -> None:
    graph_file(path, domain="com.microsoft")
    with pytest.raises(GraphError, match="backend does not"):
        ports_of_graph(path)
    assert ports_of_graph(path, domains=["com.microsoft"]).classes == 192


@pytest.mark.parametrize(
    "shape",
    [{"inputs": 2}, {"image": ("N", 3, 8)}, {"logits": ("N", 3, 64)}],
    ids=["two inputs", "no image", "no row of logits"],
)
def test_what_is_no_network_of_images_is_refused(path: Path, shape: dict[str, Any]) -> None:
    with pytest.raises(GraphError, match="no network from images to logits"):
        ports_of_graph(graph_file(path, **shape))


@pytest.mark.parametrize("change", [{"image": ("N", 3, "H", 8)}, {"type_": TensorProto.DOUBLE}], ids=["size", "type"])
def test_a_size_or_type_that_a_client_could_not_know_is_refused(path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(GraphError, match="not known well enough"):
        ports_of_graph(graph_file(path, **change))


def test_weights_in_another_file_are_refused(path: Path) -> None:
    graph_file(path)
    proto = onnx.load(path)
    weight = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[1])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(GraphError, match="files beside it"):
        ports_of_graph(path)


def engine_passport(graph: Path, profiles: list[dict[str, Any]]) -> Passport:
    parents = ((graph.name, sha256_of(graph)),)
    return Passport(kind="engine", sha256="0" * 64, parents=parents, facts={"options": {"profiles": profiles}})


def test_an_engine_has_its_graphs_ports_and_its_profiles_batches(path: Path) -> None:
    passport = engine_passport(graph_file(path), [{"min": 1, "opt": 1, "max": 4}, {"min": 5, "opt": 16, "max": 32}])
    found = ports_of_engine(path.with_name("a.engine"), passport)
    assert found.input == ports_of_graph(path).input and found.output == ports_of_graph(path).output
    assert (found.least, found.most, found.profiles) == (1, 32, ((1, 1, 4), (5, 16, 32)))


def test_an_engine_whose_graph_is_gone_or_changed_is_refused(path: Path) -> None:
    passport = engine_passport(graph_file(path), [{"min": 1, "opt": 1, "max": 4}])
    graph_file(path, logits=("N", 200))
    with pytest.raises(ArtifactError, match="not beside it"):
        ports_of_engine(path.with_name("a.engine"), passport)
    path.unlink()
    with pytest.raises(ArtifactError, match="not beside it"):
        ports_of_engine(path.with_name("a.engine"), passport)


@pytest.mark.parametrize(
    ("profiles", "reach"),
    [
        ([(1, 1, 4), (5, 16, 32)], 32),
        ([(1, 1, 1), (8, 16, 32)], 1),
        ([(8, 16, 32), (1, 1, 1), (2, 2, 8)], 32),
        ([(1, 1, 16), (2, 4, 8), (20, 20, 20)], 16),
        ([(2, 2, 4), (6, 6, 6)], 4),
    ],
)
def test_an_engine_reaches_as_far_as_its_profiles_have_no_gap(
    path: Path, profiles: list[tuple[int, int, int]], reach: int
) -> None:
    said = [dict(zip(("min", "opt", "max"), profile, strict=True)) for profile in profiles]
    found = ports_of_engine(path.with_name("a.engine"), engine_passport(graph_file(path), said))
    assert found.reach == reach


def test_a_graph_reaches_as_far_as_its_batches(path: Path) -> None:
    assert ports_of_graph(graph_file(path)).reach is None


@pytest.mark.parametrize("profiles", [[], [{"min": 1}], [{"min": 0, "opt": 1, "max": 4}], ["x"]])
def test_a_passport_without_profiles_is_refused(path: Path, profiles: list[Any]) -> None:
    with pytest.raises(ArtifactError, match="no batch profiles"):
        ports_of_engine(path.with_name("a.engine"), engine_passport(graph_file(path), profiles))
