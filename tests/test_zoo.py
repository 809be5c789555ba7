"""The ONNX zoo's files and our own exports are read as weights that compute what the graph computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from alexnet_deploy.errors import GraphError, InputError, WeightsError
from alexnet_deploy.export import onnx_from_network, run_onnx
from alexnet_deploy.graph import read_graph, write_graph
from alexnet_deploy.network import AlexNet
from alexnet_deploy.normalise import normalise
from alexnet_deploy.specs import Resize
from alexnet_deploy.variants import NetworkSpec, layers_from_network
from alexnet_deploy.weights import ModelInfo, imagenet_preprocessing, load_model
from tests.conftest import SMALL_SIDE, small_info, small_network

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def zoo_graph_with_weights(seed: int) -> onnx.ModelProto:
    """The zoo's graph as it was before its weights were cut out to make it light."""
    model = onnx.load(str(LIGHT))
    graph, random = model.graph, np.random.default_rng(seed)
    shapes = {i.name.removesuffix("__SHAPE"): numpy_helper.to_array(i).tolist() for i in graph.initializer}
    shapes.pop("OC2_DUMMY_1")
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(kept)
    for field in (graph.input, graph.initializer):
        left = [item for item in field if not item.name.endswith("__SHAPE")]
        del field[:]
        field.extend(left)
    for name, shape in shapes.items():
        deviation = 0.1 if "_b_" in name else (2 / np.prod(shape[1:])) ** 0.5
        values = random.standard_normal(shape, np.float32) * np.float32(deviation)
        graph.initializer.append(numpy_helper.from_array(values, name))
        graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    return model


@pytest.mark.slow
def test_the_zoos_alexnet_computes_the_same_logits_as_our_bvlc(tmp_path: Path) -> None:
    import onnxruntime

    model = zoo_graph_with_weights(0)
    path = tmp_path / "bvlcalexnet-9.onnx"
    onnx.save(model, str(path))
    network, info = load_model(str(path))
    assert info.network == network.spec == NetworkSpec(variant="bvlc", image_size=224)
    assert (info.preprocessing.channel_order, info.preprocessing.resize) == ("bgr", Resize.STRETCH)
    assert info.preprocessing.image_size == 224

    # The zoo's graph ends in a softmax, which would hide the size of the logits.
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("r24", onnx.TensorProto.FLOAT, [1, 1000]))
    model.graph.node.pop()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # The size of what Caffe's preprocessing makes of a photograph.
    image = np.random.default_rng(1).normal(0, 60, (1, 3, 224, 224)).astype(np.float32)
    wanted = session.run(None, {"data_0": image})[0]
    with torch.no_grad():
        got = network(torch.from_numpy(image)).numpy()
    largest = float(np.abs(wanted).max())
    assert largest > 1
    assert float(np.abs(got - wanted).max()) <= 1e-4 * largest


@pytest.mark.slow
def test_the_zoos_light_file_opens_as_it_is() -> None:
    network, info = load_model(str(LIGHT))
    assert info.network == NetworkSpec(variant="bvlc", image_size=224)
    assert info.name == "light_bvlc_alexnet"
    nodes = {node.output[0]: node for node in onnx.load(str(LIGHT)).graph.node}
    for name, tensor in network.state_dict().items():
        layer, kind = name.split(".")
        fill = helper.get_attribute_value(nodes[f"{layer}_{kind[0]}_0"].attribute[0])
        assert bool((tensor == float(numpy_helper.to_array(fill)[0])).all()), name


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`small_network` of both of Caffe's variants as we export it."""
    folder = tmp_path_factory.mktemp("exports")
    for variant in ("bvlc", "caffenet"):
        write_graph(onnx_from_network(small_network(variant), small_info(variant)).model, folder / f"{variant}.onnx")
    return {path.stem: path for path in folder.iterdir()}


def as_zoo_names(path: Path, target: Path) -> Path:
    """Takes our metadata away and names the weights as the zoo does."""
    model = onnx.load(str(path))
    del model.metadata_props[:]
    new = {f"{layer}.{kind}": f"{layer}_{kind[0]}_0" for layer in LAYERS for kind in ("weight", "bias")}
    for initializer in model.graph.initializer:
        initializer.name = new.get(initializer.name, initializer.name)
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    onnx.save(model, str(target))
    return target


def test_our_own_export_comes_back_to_the_last_bit(exports: dict[str, Path]) -> None:
    for variant, path in exports.items():
        network, info = load_model(str(path))
        assert info == small_info(variant)
        wanted = small_network(variant).state_dict()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())


def test_our_export_with_a_softmax_is_read_as_the_network_below_it(tmp_path: Path) -> None:
    spec = NetworkSpec(classes=10, width=0.125, image_size=SMALL_SIDE, softmax=True)
    network = AlexNet(spec)
    network.load_state_dict(small_network().state_dict())
    info = ModelInfo(name="x", network=spec, preprocessing=small_info().preprocessing)
    write_graph(onnx_from_network(network.eval(), info).model, tmp_path / "x.onnx")
    loaded, found = load_model(str(tmp_path / "x.onnx"))
    assert found.network is not None
    assert not found.network.softmax
    image = torch.randn(1, 3, SMALL_SIDE, SMALL_SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(image), small_network()(image))


@pytest.mark.parametrize("variant", ["bvlc", "caffenet"])
def test_the_order_of_norm_and_pool_tells_caffenet_from_bvlc(
    variant: str, exports: dict[str, Path], tmp_path: Path
) -> None:
    path = as_zoo_names(exports[variant], tmp_path / "foreign.onnx")
    network, info = load_model(str(path))
    assert network.spec.variant == variant
    assert network.spec.image_size == SMALL_SIDE
    assert info.preprocessing == imagenet_preprocessing(network.spec)
    image = torch.randn(2, 3, SMALL_SIDE, SMALL_SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(image), small_network(variant)(image))


def converted(path: Path, variant: str, *, zoo: bool = True, gemm_bias: bool = True) -> dict[str, NDArray[np.float32]]:
    """Writes a quarter-wide AlexNet node by node, as a converter from Caffe would, and returns its weights."""
    spec = NetworkSpec(variant=variant, classes=4, width=0.25, image_size=SMALL_SIDE)
    layers = {layer.name: layer for layer in layers_from_network(spec)}
    lrn = spec.family.lrn
    assert lrn is not None
    random = np.random.default_rng(0)
    values: dict[str, NDArray[np.float32]] = {}
    nodes: list[onnx.NodeProto] = []
    at = "data_0"

    def add(op: str, *constants: str, **attributes: Any) -> None:
        nonlocal at
        nodes.append(helper.make_node(op, [at, *constants], [f"r{len(nodes)}"], **attributes))
        at = f"r{len(nodes) - 1}"

    def name_of(layer: str, kind: str) -> str:
        return f"{layer}_{kind[0]}_0" if zoo else f"{layer}-{kind}"

    for name, layer in layers.items():
        constants = []
        if layer.weight_shape:
            for kind, shape in (("weight", layer.weight_shape), ("bias", layer.weight_shape[:1])):
                if kind == "bias" and layer.op == "linear" and not gemm_bias:
                    continue
                values[f"{name}.{kind}"] = random.normal(0, 0.1, shape).astype(np.float32)
                constants.append(name_of(name, kind))
        if layer.op == "conv":
            geometry = {"strides": [layer.stride] * 2, "pads": [layer.padding] * 4, "group": layer.groups}
            add("Conv", *constants, kernel_shape=[layer.kernel] * 2, **geometry)
        elif layer.op == "linear":
            if name == "fc6":
                add("Flatten")
            add("Gemm", *constants, transB=1)
        elif layer.op == "lrn":
            add("LRN", size=lrn.size, alpha=lrn.alpha, beta=lrn.beta, bias=lrn.bias)
        elif layer.op == "pool":
            add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=int(layer.ceil))
        elif layer.op == "relu":
            add("Relu")
    graph = helper.make_graph(
        nodes,
        "caffe",
        [helper.make_tensor_value_info("data_0", onnx.TensorProto.FLOAT, [1, 3, SMALL_SIDE, SMALL_SIDE])],
        [helper.make_tensor_value_info(at, onnx.TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(array, name_of(*name.split("."))) for name, array in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return values


def assert_computes_what_the_graph_does(network: AlexNet, path: Path) -> None:
    image = np.random.default_rng(3).normal(0, 100, (2, 3, SMALL_SIDE, SMALL_SIDE)).astype(np.float32)
    wanted = run_onnx(normalise(read_graph(path)).model, image)
    with torch.no_grad():
        got = network(torch.from_numpy(image)).numpy()
    assert float(np.abs(got - wanted).max()) <= 1e-5 * float(np.abs(wanted).max())


@pytest.mark.parametrize("variant", ["bvlc", "caffenet"])
def test_a_graph_of_a_converter_is_recognized_by_its_order(variant: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    values = converted(path, variant)
    network, info = load_model(str(path))
    assert info.network is not None
    assert info.network.variant == variant
    assert all(np.array_equal(tensor.numpy(), values[name]) for name, tensor in network.state_dict().items())
    assert_computes_what_the_graph_does(network, path)


def test_the_papers_graph_is_not_mistaken_for_caffes(tmp_path: Path) -> None:
    """It has bvlc's order and shapes, but another padding of conv1 and another constant in the norm."""
    path = tmp_path / "x.onnx"
    converted(path, "paper")
    network, _ = load_model(str(path), variant="paper")
    assert_computes_what_the_graph_does(network, path)
    try:
        guessed, _ = load_model(str(path))
    except WeightsError:
        return
    assert_computes_what_the_graph_does(guessed, path)


def test_a_named_variant_wins_over_the_order_that_was_found(tmp_path: Path) -> None:
    converted(tmp_path / "x.onnx", "caffenet")
    network, _ = load_model(str(tmp_path / "x.onnx"), variant="bvlc")
    assert network.spec.variant == "bvlc"


def test_a_layer_without_a_bias_has_a_bias_of_zeros(tmp_path: Path) -> None:
    values = converted(tmp_path / "x.onnx", "bvlc", gemm_bias=False)
    state = load_model(str(tmp_path / "x.onnx"))[0].state_dict()
    assert "fc7.bias" not in values
    assert not bool(state["fc7.bias"].any())
    assert state["fc7.bias"].shape == state["fc7.weight"].shape[:1]
    assert np.array_equal(state["conv2.bias"].numpy(), values["conv2.bias"])


def test_a_graph_whose_weights_have_other_names_is_refused_with_the_names(tmp_path: Path) -> None:
    converted(tmp_path / "x.onnx", "bvlc", zoo=False)
    with pytest.raises(WeightsError, match="does not name its weights as an AlexNet does") as caught:
        load_model(str(tmp_path / "x.onnx"))
    assert "conv1-weight" in str(caught.value.got)
    assert "conv1_w_0" in str(caught.value.expected)


def test_a_graph_with_a_layer_too_few_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "conv1_w_0"], ["y"])
    weight = numpy_helper.from_array(np.zeros((96, 3, 11, 11), np.float32), "conv1_w_0")
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, None, None]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]), ir_version=8)
    model.opset_import[0].version = 18
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(WeightsError, match="does not hold an AlexNet"):
        load_model(str(tmp_path / "x.onnx"))


def test_a_graph_that_reads_no_images_is_refused(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "xy")
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]), ir_version=8)
    model.opset_import[0].version = 18
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(GraphError, match="does not read one batch of images"):
        load_model(str(tmp_path / "x.onnx"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_onnx_file_that_was_cut_short_is_refused(share: float, exports: dict[str, Path], tmp_path: Path) -> None:
    data = exports["bvlc"].read_bytes()
    (tmp_path / "x.onnx").write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="not an ONNX file, or cut short"):
        load_model(str(tmp_path / "x.onnx"))
