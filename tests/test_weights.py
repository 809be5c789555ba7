"""Weights come back as they were written, and a file that is not one is refused in the project's own words."""

from __future__ import annotations

import gzip
import io
import json
import math
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from alexnet_deploy import weights, weights_guard
from alexnet_deploy.errors import AlexnetDeployError, InputError, WeightsError
from alexnet_deploy.network import AlexNet
from alexnet_deploy.specs import Interpolation, Preprocessing, Resize
from alexnet_deploy.variants import VARIANTS, NetworkSpec, layers_from_network
from alexnet_deploy.weights import (
    ModelInfo,
    imagenet_preprocessing,
    load_model,
    network_of,
    read_checkpoint,
    save_checkpoint,
    spec_from_tensors,
    stem_of,
)
from tests.conftest import small_info, small_network

SUFFIXES = (".safetensors", ".safetensors.zst")
TORCHVISION = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8",
    "conv5": "features.10", "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip


def prune(network: AlexNet, density: float = 0.1) -> None:
    """Leaves a share of fc6 and fc7, and no bias of fc7."""
    generator = torch.Generator().manual_seed(5)
    state = network.state_dict()
    for name in ("fc6.weight", "fc7.weight"):
        state[name].mul_(torch.rand(state[name].shape, generator=generator) < density)
    state["fc7.bias"].zero_()


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor), name


def paper_shapes(variant: str) -> dict[str, Tensor]:
    """A state dict of the full size that takes no memory: one value seen many times."""
    shapes = {}
    for layer in layers_from_network(NetworkSpec(variant=variant)):
        if layer.weight_shape:
            shapes[f"{layer.name}.weight"] = torch.zeros(1).expand(layer.weight_shape)
            shapes[f"{layer.name}.bias"] = torch.zeros(1).expand(layer.weight_shape[0])
    return shapes


def small_owt() -> tuple[AlexNet, dict[str, Tensor]]:
    """A network that is small in the file and yet of the size that `.pth` files are taken to have."""
    network = AlexNet(NetworkSpec(variant="owt", classes=3, width=0.125))
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05)
    return network.eval(), {name: tensor.clone() for name, tensor in network.state_dict().items()}


# Round trips


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_checkpoint_comes_back_to_the_last_bit(suffix: str, variant: str, tmp_path: Path) -> None:
    network, info = small_network(variant), small_info(variant)
    path = tmp_path / f"x{suffix}"
    save_checkpoint(network, info, path)
    loaded, loaded_info = load_model(str(path))
    assert loaded_info == info
    assert loaded.spec == info.network
    assert not loaded.training
    assert_same(loaded.state_dict(), network.state_dict())


def test_the_shared_checkpoint_opens_by_its_path(small_checkpoint: Path) -> None:
    loaded, info = load_model(str(small_checkpoint))
    assert_same(loaded.state_dict(), small_network().state_dict())
    assert info == small_info()


@pytest.mark.parametrize("half", [False, True])
def test_a_pruned_checkpoint_comes_back_to_the_last_bit_from_its_sparse_form(half: bool, tmp_path: Path) -> None:
    network = small_network()
    prune(network)
    path = tmp_path / "x.safetensors.zst"
    save_checkpoint(network, small_info(), path, half=half)
    tensors, _ = read_checkpoint(path)
    state = network.state_dict()
    assert_same(tensors, {name: tensor.half() if half else tensor for name, tensor in state.items()})
    stored = load_safetensors(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
    assert {"fc6.weight.mask", "fc6.weight.nonzero", "fc7.weight.mask", "fc7.bias.mask"} <= stored.keys()
    assert "fc6.weight" not in stored
    assert "conv1.weight" in stored
    assert stored["fc6.weight.nonzero"].numel() == int(state["fc6.weight"].count_nonzero())


@pytest.mark.parametrize("half", [False, True])
def test_the_sparse_form_is_smaller_than_the_dense_one(
    half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_network()
    prune(network)
    save_checkpoint(network, small_info(), tmp_path / "sparse.safetensors.zst", half=half)
    monkeypatch.setattr(weights, "SPARSE_DENSITY", 0.0)
    save_checkpoint(network, small_info(), tmp_path / "dense.safetensors.zst", half=half)
    sparse, dense = ((tmp_path / f"{name}.safetensors.zst").stat().st_size for name in ("sparse", "dense"))
    assert sparse < dense


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    density=st.floats(0, 1),
    seed=st.integers(0, 100),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_the_sparse_form_holds_tensors_of_every_shape(
    shape: list[int], density: float, seed: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)
    dense = dense.to(dtype)
    tensors = weights._sparse_from_dense("w", dense)
    assert torch.equal(weights._dense_from_sparse(Path("x"), "w", shape, tensors), dense)
    assert tensors == {}


def test_half_stores_fp16_and_loads_as_fp32(tmp_path: Path) -> None:
    network = small_network()
    for suffix in SUFFIXES:
        save_checkpoint(network, small_info(), tmp_path / f"x{suffix}", half=True)
        loaded, _ = load_model(str(tmp_path / f"x{suffix}"))
        assert_same(loaded.state_dict(), {n: t.half().float() for n, t in network.state_dict().items()})
    save_checkpoint(network, small_info(), tmp_path / "full.safetensors")
    half, full = ((tmp_path / name).stat().st_size for name in ("x.safetensors", "full.safetensors"))
    assert half == pytest.approx(full / 2, rel=0.02)


def test_a_checkpoint_without_our_description_is_recognized_by_its_shapes(tmp_path: Path) -> None:
    network, state = small_owt()
    (tmp_path / "x.safetensors").write_bytes(save_safetensors(state))
    loaded, info = load_model(str(tmp_path / "x.safetensors"))
    assert loaded.spec == NetworkSpec(variant="owt", classes=3, width=0.125)
    assert info.preprocessing == imagenet_preprocessing(loaded.spec)
    assert_same(loaded.state_dict(), network.state_dict())


# Descriptions


@pytest.mark.parametrize(
    "info",
    [
        small_info(),
        ModelInfo(name="foreign", network=None, preprocessing=Preprocessing()),
        ModelInfo(
            name="ünïcode",
            network=NetworkSpec(variant="caffenet", classes=2, width=0.5, softmax=True),
            preprocessing=Preprocessing(
                image_size=227,
                resize=Resize.STRETCH,
                resize_size=300,
                interpolation=Interpolation.BICUBIC,
                channel_order="bgr",
                scale=1.0,
                mean=(104.0, 117.0, 123.0),
                std=(1.0, 2.0, 3.0),
            ),
            labels=("Katze", "Hund"),
        ),
    ],
)
def test_a_description_survives_json(info: ModelInfo) -> None:
    assert ModelInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_a_description_whose_parts_do_not_fit_is_refused() -> None:
    spec = NetworkSpec(classes=10)
    with pytest.raises(InputError, match="labels do not fit"):
        ModelInfo(name="x", network=spec, preprocessing=Preprocessing(), labels=("one",))
    with pytest.raises(InputError, match="preprocessing does not fit"):
        ModelInfo(name="x", network=spec, preprocessing=Preprocessing(image_size=200))


@pytest.mark.parametrize("values", [None, [], 3, "text", {}, {"name": "x"}])
def test_a_description_that_is_none_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ModelInfo.from_json(values)


@pytest.mark.parametrize("field", ["name", "network", "preprocessing", "labels"])
def test_a_description_with_a_missing_field_is_refused(field: str) -> None:
    values = small_info().to_json()
    del values[field]
    with pytest.raises(InputError, match="cannot be read"):
        ModelInfo.from_json(values)


def test_a_foreign_graph_has_no_network() -> None:
    foreign = ModelInfo(name="x", network=None, preprocessing=Preprocessing())
    with pytest.raises(WeightsError, match=r"x\.onnx is not known to be an AlexNet"):
        network_of(foreign, "x.onnx")
    assert network_of(small_info(), "x") == small_info().network


@pytest.mark.parametrize(("variant", "caffe"), [("bvlc", True), ("caffenet", True), ("paper", False), ("owt", False)])
def test_foreign_weights_are_given_the_preprocessing_of_their_tradition(variant: str, caffe: bool) -> None:
    spec = NetworkSpec(variant=variant)
    found = imagenet_preprocessing(spec)
    assert found.image_size == spec.image_size
    assert found.channel_order == ("bgr" if caffe else "rgb")
    assert found.scale == (1.0 if caffe else 1 / 255)
    assert found.resize is (Resize.STRETCH if caffe else Resize.SHORTER_SIDE)


# What must not be saved


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_weight_that_is_not_finite_is_not_saved(value: float, suffix: str, tmp_path: Path) -> None:
    network = small_network()
    network.state_dict()["conv3.weight"][0, 0, 0, 0] = value
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"the last good one")
    with pytest.raises(WeightsError, match=r"conv3\.weight holds values that are not finite\n"):
        save_checkpoint(network, small_info(), path)
    assert path.read_bytes() == b"the last good one"


def test_a_weight_beyond_fp16_is_not_saved_as_fp16(tmp_path: Path) -> None:
    network = small_network()
    network.state_dict()["fc8.weight"][0, 0] = 70_000.0
    with pytest.raises(WeightsError, match=r"fc8\.weight holds values that are not finite in FP16"):
        save_checkpoint(network, small_info(), tmp_path / "x.safetensors", half=True)
    assert not (tmp_path / "x.safetensors").exists()
    save_checkpoint(network, small_info(), tmp_path / "x.safetensors")
    assert load_model(str(tmp_path / "x.safetensors"))[0].state_dict()["fc8.weight"][0, 0] == 70_000.0


@pytest.mark.parametrize("name", ["x.pt", "x.zst", "x", "x.safetensors.gz"])
def test_a_checkpoint_of_another_suffix_is_not_saved(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be a checkpoint"):
        save_checkpoint(small_network(), small_info(), tmp_path / name)
    assert not (tmp_path / name).exists()


# Damaged and foreign files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no model 'nowhere\.safetensors'") as caught:
        load_model("nowhere.safetensors")
    assert caught.value.got == "no such file"


def test_a_shipped_model_that_is_missing_says_where_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "shipped_folder", lambda name: tmp_path / name)
    with pytest.raises(InputError, match="the shipped model is missing") as caught:
        load_model("shipped")
    assert str(tmp_path / "models" / weights.SHIPPED_CHECKPOINT) in str(caught.value.got)


def test_the_shipped_model_is_opened_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "shipped_folder", lambda name: tmp_path / name)
    save_checkpoint(small_network(), small_info(), tmp_path / "models" / weights.SHIPPED_CHECKPOINT)
    network, info = load_model("shipped")
    assert info == small_info()
    assert_same(network.state_dict(), small_network().state_dict())


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model") as caught:
        load_model(str(tmp_path))
    assert caught.value.got == "a folder"


@pytest.mark.parametrize(("name", "got"), [("x.h5", ".h5"), ("x", "no suffix"), ("x.zst", ".zst")])
def test_a_file_of_an_unknown_kind_is_refused_with_the_known_ones(name: str, got: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"data")
    with pytest.raises(InputError, match="of no known kind") as caught:
        load_model(str(tmp_path / name))
    assert caught.value.got == got
    assert ".safetensors" in str(caught.value.expected)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".pt", ".pth", ".onnx"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"Not Found\n",
        b"<!DOCTYPE html><html><body>404</body></html>" * 20,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        bytes(1000),
        b"\xff" * 1000,
        b"PK\x03\x04" + bytes(100),
        zstandard.ZstdCompressor().compress(b"not safetensors"),
        gzip.compress(b"not safetensors"),
    ],
    ids=["empty", "byte", "text", "html", "lfs", "zeros", "ones", "zip", "zstd", "gzip"],
)
def test_a_file_that_is_something_else_is_refused(suffix: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError):
        load_model(str(path))


def mutants(data: bytes, count: int) -> list[bytes]:
    """Cuts and changed bytes, as many in the header as in the rest."""
    draw = random.Random(0)
    made = []
    for _ in range(count):
        if draw.random() < 0.3:
            made.append(data[: draw.randrange(len(data))])
            continue
        changed = bytearray(data)
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(min(len(data), 200) if draw.random() < 0.5 else len(data))
            changed[at] = draw.randrange(256)
        made.append(bytes(changed))
    return made


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_checkpoint_never_ends_in_another_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    info = ModelInfo(name="x", network=None, preprocessing=Preprocessing()).to_json()
    sparse = weights._sparse_from_dense("a", torch.eye(5))
    metadata = {"alexnet_deploy": json.dumps({"schema": 1, "model": info, "sparse": {"a": [5, 5]}})}
    data = save_safetensors({**sparse, "b": torch.arange(12.0)}, metadata)
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if suffix.endswith("zst") else data)
    whole = path.read_bytes()
    assert torch.equal(read_checkpoint(path)[0]["a"], torch.eye(5))
    refused = 0
    for mutant in mutants(whole, 300):
        path.write_bytes(mutant)
        try:
            read_checkpoint(path)
        except AlexnetDeployError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_a_damaged_torch_file_never_ends_in_another_error(form: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    tensors = {"features.0.weight": torch.arange(12.0).view(4, 3), "b": torch.ones(5)}
    torch.save(tensors, buffer, _use_new_zipfile_serialization=form == "zip")
    refused = 0
    for mutant in mutants(buffer.getvalue(), 300):
        (tmp_path / "x.pt").write_bytes(mutant)
        try:
            load_model(str(tmp_path / "x.pt"))
        except AlexnetDeployError:
            refused += 1
    # Even a file that reads holds no AlexNet.
    assert refused == 300


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_checkpoint_that_was_cut_short_is_refused(share: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    save_checkpoint(small_network(), small_info(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_model(str(path))


def test_a_checkpoint_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(bytes(100_000)))
    monkeypatch.setattr(weights_guard, "MAX_CHECKPOINT_BYTES", 99_999)
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    assert "it says that it unpacks to 100000 bytes" in str(caught.value.got)


def test_a_compressed_checkpoint_that_hides_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors.zst"
    path.write_bytes(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000)))
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_model(str(path))


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(1000))
    monkeypatch.setattr(weights_guard, "MAX_CHECKPOINT_BYTES", 999)
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    assert caught.value.got == "1,000 bytes"


def checkpoint_with(tmp_path: Path, tensors: dict[str, Tensor], description: Any) -> Path:
    path = tmp_path / "x.safetensors"
    text = description if isinstance(description, str) else json.dumps(description)
    path.write_bytes(save_safetensors(tensors, {"alexnet_deploy": text}))
    return path


@pytest.mark.parametrize(
    "description",
    [
        "",
        "{",
        "[]",
        "null",
        {},
        {"sparse": []},
        {"sparse": {}},
        {"sparse": {}, "model": {}},
        {"sparse": {"w": [2]}, "model": {}},
        {"sparse": {"b": ["many"]}, "model": {}},
        {"sparse": {"b": None}, "model": {}},
    ],
)
def test_a_checkpoint_whose_description_is_garbled_is_refused(description: Any, tmp_path: Path) -> None:
    path = checkpoint_with(tmp_path, {"b": torch.zeros(2)}, description)
    with pytest.raises(InputError):
        load_model(str(path))


@pytest.mark.parametrize(
    ("tensors", "shape"),
    [
        ({"w.mask": torch.tensor([255], dtype=torch.uint8), "w.nonzero": torch.ones(7)}, [8]),
        ({"w.mask": torch.tensor([255], dtype=torch.uint8), "w.nonzero": torch.ones(9)}, [8]),
        ({"w.mask": torch.tensor([255], dtype=torch.uint8), "w.nonzero": torch.ones(8)}, [9]),
        ({"w.mask": torch.tensor([255], dtype=torch.uint8), "w.nonzero": torch.ones(8)}, [-1]),
        ({"w.mask": torch.tensor([255], dtype=torch.uint8), "w.nonzero": torch.ones(8)}, [10**18, 10**18]),
        ({"w.mask": torch.tensor([1.0]), "w.nonzero": torch.ones(8)}, [8]),
        ({"w.nonzero": torch.ones(8)}, [8]),
        ({"w.mask": torch.tensor([255], dtype=torch.uint8)}, [8]),
        ({"w.mask": torch.tensor([255], dtype=torch.uint8), "w.nonzero": torch.ones(8, 1)}, [8]),
    ],
)
def test_a_sparse_tensor_that_does_not_add_up_is_refused(
    tensors: dict[str, Tensor], shape: list[int], tmp_path: Path
) -> None:
    path = checkpoint_with(tmp_path, tensors, {"sparse": {"w": shape}, "model": small_info().to_json()})
    with pytest.raises((InputError, WeightsError)):
        load_model(str(path))


@pytest.mark.parametrize("part", ["network", "preprocessing"])
def test_a_checkpoint_with_an_infinite_size_in_its_description_is_refused(part: str, tmp_path: Path) -> None:
    model = small_info().to_json()
    model[part]["image_size"] = math.inf
    path = checkpoint_with(tmp_path, {}, {"sparse": {}, "model": model})
    with pytest.raises(InputError):
        load_model(str(path))


def test_a_state_with_a_missing_tensor_is_refused_by_its_name(tmp_path: Path) -> None:
    state = small_network().state_dict()
    del state["fc7.bias"]
    path = checkpoint_with(tmp_path, state, {"sparse": {}, "model": small_info().to_json()})
    with pytest.raises(WeightsError, match="do not fit the variant paper") as caught:
        load_model(str(path))
    assert caught.value.got == "fc7.bias missing, and 0 more that differ"
    assert caught.value.expected == "fc7.bias (512,)"


def test_a_state_with_a_tensor_too_many_is_refused_by_its_name(tmp_path: Path) -> None:
    state = {**small_network().state_dict(), "fc9.weight": torch.zeros(2)}
    path = checkpoint_with(tmp_path, state, {"sparse": {}, "model": small_info().to_json()})
    with pytest.raises(WeightsError) as caught:
        load_model(str(path))
    assert caught.value.got == "fc9.weight (2,), and 0 more that differ"
    assert caught.value.expected == "fc9.weight absent"


def test_a_state_of_other_shapes_is_refused_with_both_shapes(tmp_path: Path) -> None:
    info = small_info("unpadded").to_json()
    path = checkpoint_with(tmp_path, small_network("owt").state_dict(), {"sparse": {}, "model": info})
    with pytest.raises(WeightsError, match="do not fit the variant unpadded") as caught:
        load_model(str(path))
    assert "conv1.bias (8,)" in str(caught.value.got)
    assert caught.value.expected == "conv1.bias (16,)"


# PyTorch files


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("torchvision", [False, True])
def test_a_torch_file_opens_in_every_form_that_people_save(
    suffix: str, wrapped: bool, prefix: str, torchvision: bool, tmp_path: Path
) -> None:
    network, state = small_owt()
    renamed = {}
    for name, tensor in state.items():
        layer, kind = name.split(".")
        renamed[f"{prefix}{TORCHVISION[layer] if torchvision else layer}.{kind}"] = tensor
    path = tmp_path / f"x{suffix}"
    torch.save({"state_dict": renamed, "epoch": 3} if wrapped else renamed, path)
    loaded, info = load_model(str(path))
    assert info.network == NetworkSpec(variant="owt", classes=3, width=0.125)
    assert info.name == "x"
    assert_same(loaded.state_dict(), network.state_dict())


def test_a_torch_file_of_the_old_form_opens(tmp_path: Path) -> None:
    network, state = small_owt()
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    loaded, _ = load_model(str(tmp_path / "x.pth"))
    assert_same(loaded.state_dict(), network.state_dict())


def test_a_torch_file_of_half_width_is_read_as_fp32(tmp_path: Path) -> None:
    _, state = small_owt()
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "x.pt")
    loaded, _ = load_model(str(tmp_path / "x.pt"))
    assert_same(loaded.state_dict(), {name: tensor.half().float() for name, tensor in state.items()})


class Malicious:
    """Runs a program where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_pickled_program_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "it-ran", tmp_path / "x.pt"
    if form == "bare":
        path.write_bytes(pickle.dumps(Malicious(proof), protocol=2))
    else:
        torch.save({"conv1.weight": Malicious(proof)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match="cannot be read as weights") as caught:
        load_model(str(path))
    assert "programs and are not opened" in str(caught.value.expected)
    assert not proof.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(small_network(), tmp_path / "x.pt")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_model(str(tmp_path / "x.pt"))


@pytest.mark.parametrize("value", [[torch.zeros(2)], torch.zeros(2), 3, {"lr": 0.1}, {"state_dict": {"a": 1}}])
def test_a_torch_file_that_holds_no_state_is_refused(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(InputError, match="does not hold a state dict"):
        load_model(str(tmp_path / "x.pt"))


@pytest.mark.parametrize("value", [{}, {"a": torch.zeros(2)}, {1: torch.zeros(2)}, {"conv1.weight": torch.zeros(2)}])
def test_a_state_of_another_network_is_refused(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="does not hold an AlexNet"):
        load_model(str(tmp_path / "x.pt"))


def test_a_zip_archive_that_is_no_torch_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_model(str(tmp_path / "x.pt"))


# Variants from shapes


@pytest.mark.parametrize("variant", ["unpadded", "owt"])
def test_a_variant_with_shapes_of_its_own_is_recognized(variant: str) -> None:
    assert spec_from_tensors("x", paper_shapes(variant), None) == NetworkSpec(variant=variant)


@pytest.mark.parametrize("variant", ["paper", "bvlc", "caffenet"])
def test_variants_of_the_same_shapes_ask_for_the_name_and_take_it(variant: str) -> None:
    with pytest.raises(WeightsError, match="cannot be told from its shapes") as caught:
        spec_from_tensors("x", paper_shapes(variant), None)
    assert caught.value.expected == "one of paper, bvlc, caffenet"
    assert caught.value.remedy == "say which with --variant"
    assert spec_from_tensors("x", paper_shapes(variant), variant) == NetworkSpec(variant=variant)


@pytest.mark.parametrize("named", ["owt", "unpadded", "vgg"])
def test_a_named_variant_that_the_shapes_contradict_is_refused(named: str) -> None:
    with pytest.raises(WeightsError, match="cannot be told from its shapes") as caught:
        spec_from_tensors("x", paper_shapes("bvlc"), named)
    assert caught.value.remedy is None


@pytest.mark.parametrize("name", ["conv1.weight", "conv2.weight", "fc6.weight", "fc8.weight"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (96, 3), (10**6, 1, 1, 1)])
def test_shapes_of_no_variant_are_refused(name: str, shape: tuple[int, ...]) -> None:
    tensors = {**paper_shapes("owt"), name: torch.empty(shape, device="meta")}
    with pytest.raises(WeightsError):
        spec_from_tensors("x", tensors, None)


@pytest.mark.parametrize("width", [0.125, 0.25, 0.5, 1.0, 1.5])
def test_the_width_is_found_from_the_shapes(width: float) -> None:
    spec = NetworkSpec(variant="bvlc", width=width, classes=7, image_size=224)
    with torch.device("meta"):
        state = AlexNet(spec).state_dict()
    found = spec_from_tensors("x", state, "bvlc", 224)
    assert (found.variant, found.classes, found.image_size) == ("bvlc", 7, 224)
    assert layers_from_network(found) == layers_from_network(spec)


# torchvision, without a network


def test_torchvisions_weights_without_a_network_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    from torchvision.models import AlexNet_Weights

    def offline(*_args: object, **_named: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(type(AlexNet_Weights.IMAGENET1K_V1), "get_state_dict", offline)
    with pytest.raises(InputError, match="could not be fetched") as caught:
        load_model("torchvision")
    assert "Name or service not known" in str(caught.value.got)
    assert "--model FILE.pth" in str(caught.value.remedy)


def test_torchvisions_weights_come_with_their_preprocessing_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import AlexNet_Weights

    fetched = {
        f"{TORCHVISION[name.split('.')[0]]}.{name.split('.')[1]}": tensor
        for name, tensor in paper_shapes("owt").items()
    }
    monkeypatch.setattr(type(AlexNet_Weights.IMAGENET1K_V1), "get_state_dict", lambda *_a, **_n: fetched)
    tensors, info = weights._read_model("torchvision", None)
    assert set(tensors) == set(paper_shapes("owt"))
    assert info.network == NetworkSpec(variant="owt")
    assert info.preprocessing == Preprocessing()
    assert (len(info.labels), info.labels[0]) == (1000, "tench")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.safetensors", "a"),
        ("a.safetensors.zst", "a"),
        ("a.b.pt", "a.b"),
        ("a.pth", "a"),
        ("a.onnx", "a"),
        ("a", "a"),
    ],
)
def test_the_stem_is_the_name_without_a_models_suffixes(name: str, stem: str) -> None:
    assert stem_of(Path("/folder.onnx") / name) == stem


def test_the_header_of_a_checkpoint_holds_the_description(tmp_path: Path) -> None:
    """Any safetensors reader finds it, without this package."""
    path = tmp_path / "x.safetensors"
    save_checkpoint(small_network(), small_info(), path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    described = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["alexnet_deploy"])
    assert described["schema"] == 1
    assert ModelInfo.from_json(described["model"]) == small_info()
