"""The table of the family computes the shapes, parameters and multiply-adds that the papers and files have."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import InputError
from alexnet_deploy.variants import VARIANTS, Layer, NetworkSpec, layers_from_network, scaled
from tests.conftest import SMALL_SIDE


def layers_by_name(spec: NetworkSpec) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers_from_network(spec)}


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("paper", 60_965_224),
        ("bvlc", 60_965_224),
        ("caffenet", 60_965_224),
        ("unpadded", 49_430_888),
        ("owt", 61_100_840),
    ],
)
def test_parameters_are_those_published(variant: str, parameters: int) -> None:
    assert sum(layer.parameters for layer in layers_from_network(NetworkSpec(variant=variant))) == parameters


def test_every_variant_of_the_table_has_a_published_count_above() -> None:
    assert set(VARIANTS) == {"paper", "bvlc", "caffenet", "unpadded", "owt"}


@pytest.mark.parametrize(
    ("variant", "macs"),
    [("paper", 724_406_816), ("bvlc", 724_406_816), ("caffenet", 724_406_816), ("owt", 714_188_480)],
)
def test_multiply_adds_are_those_published(variant: str, macs: int) -> None:
    assert sum(layer.macs for layer in layers_from_network(NetworkSpec(variant=variant))) == macs


def test_the_unpadded_variant_has_the_shapes_of_the_common_description() -> None:
    layers = layers_by_name(NetworkSpec(variant="unpadded"))
    shapes = [layers[name].output for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5")]
    assert shapes == [(96, 54, 54), (256, 26, 26), (384, 12, 12), (384, 12, 12), (256, 12, 12), (256, 5, 5)]
    assert layers["fc6"].input == (6400,)


@pytest.mark.parametrize("variant", ["bvlc", "caffenet"])
@pytest.mark.parametrize(("side", "conv1", "conv5"), [(227, 55, 13), (224, 54, 12)])
def test_the_caffe_variants_feed_fc6_the_same_from_both_sizes(variant: str, side: int, conv1: int, conv5: int) -> None:
    layers = layers_by_name(NetworkSpec(variant=variant, image_size=side))
    assert layers["fc6"].input == (9216,)
    assert layers["pool5"].output == (256, 6, 6)
    assert layers["conv1"].output == (96, conv1, conv1)
    assert layers["conv5"].output == (256, conv5, conv5)


@pytest.mark.parametrize("variant", ["paper", "owt"])
def test_the_padded_variants_feed_fc6_9216_features(variant: str) -> None:
    layers = layers_by_name(NetworkSpec(variant=variant))
    assert layers["fc6"].input == (9216,)
    assert layers["conv1"].output[1:] == (55, 55)


@pytest.mark.parametrize("variant", ["paper", "unpadded", "bvlc"])
def test_the_norm_stands_between_relu_and_pool(variant: str) -> None:
    names = [layer.name for layer in layers_from_network(NetworkSpec(variant=variant))]
    assert names[:8] == ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2"]


def test_caffenet_pools_before_it_normalizes() -> None:
    names = [layer.name for layer in layers_from_network(NetworkSpec(variant="caffenet"))]
    assert names[:8] == ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2"]


def test_owt_has_no_norm_and_no_groups() -> None:
    rows = layers_from_network(NetworkSpec(variant="owt"))
    assert [layer.op for layer in rows].count("lrn") == 0
    assert {layer.groups for layer in rows} == {1}


@pytest.mark.parametrize("variant", ["paper", "unpadded", "bvlc", "caffenet"])
def test_conv2_conv4_and_conv5_are_grouped(variant: str) -> None:
    layers = layers_by_name(NetworkSpec(variant=variant))
    assert [layers[f"conv{index}"].groups for index in range(1, 6)] == [1, 2, 1, 2, 2]
    assert layers["conv2"].weight_shape == (256, 48, 5, 5)


@pytest.mark.parametrize(("variant", "bias"), [("paper", 2.0), ("unpadded", 2.0), ("bvlc", 1.0), ("caffenet", 1.0)])
def test_the_norms_constants_are_the_papers_or_caffes(variant: str, bias: float) -> None:
    lrn = VARIANTS[variant].lrn
    assert lrn is not None
    # The paper's alpha of 1e-4 multiplies the sum; Caffe's, torch's and ONNX's is divided by the size first.
    assert (lrn.size, lrn.alpha, lrn.beta, lrn.bias) == (5, 1e-4, 0.75, bias)


def test_a_softmax_is_a_row_only_where_it_is_asked_for() -> None:
    assert layers_from_network(NetworkSpec(softmax=True))[-1].op == "softmax"
    assert layers_from_network(NetworkSpec())[-1].name == "fc8"


@pytest.mark.parametrize(
    ("channels", "width", "rounded"),
    [(96, 1.0, 96), (96, 0.5, 48), (96, 0.125, 16), (64, 0.125, 8), (384, 0.3, 112), (64, 0.001, 8), (256, 2.0, 512)],
)
def test_widths_round_to_multiples_of_eight(channels: int, width: float, rounded: int) -> None:
    assert scaled(channels, width) == rounded


@settings(deadline=None, max_examples=60)
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    width=st.floats(0.01, 2.0),
    side=st.integers(SMALL_SIDE, 300),
    classes=st.integers(1, 50),
)
def test_shapes_follow_each_other_at_every_width_and_size(variant: str, width: float, side: int, classes: int) -> None:
    spec = NetworkSpec(variant=variant, width=width, image_size=side, classes=classes)
    rows = layers_from_network(spec)
    for before, after in itertools.pairwise(rows):
        assert math.prod(after.input) == math.prod(before.output)
    for layer in rows:
        assert all(extent >= 1 for extent in layer.output)
        if layer.op in ("conv", "linear"):
            assert layer.parameters == math.prod(layer.weight_shape) + layer.output[0]
            assert layer.input[0] % layer.groups == 0
        if layer.op == "conv":
            assert layer.output[0] % 8 == 0
    assert rows[-1].output == (classes,)


def test_the_arithmetic_is_written_as_a_textbook_does() -> None:
    layers = layers_by_name(NetworkSpec(variant="bvlc", image_size=224))
    assert layers["conv1"].arithmetic == "floor((224 + 2*0 - 11) / 4) + 1 = 54"
    assert layers["pool5"].arithmetic == "ceil((12 - 3) / 2) + 1 = 6"
    assert layers["fc6"].arithmetic == "256 * 6 * 6 = 9216 inputs"


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_the_image_size_is_the_variants_own_unless_one_is_given(variant: str) -> None:
    assert NetworkSpec(variant=variant).image_size == VARIANTS[variant].image_size
    assert VARIANTS[variant].image_sizes[0] == VARIANTS[variant].image_size
    assert NetworkSpec(variant=variant, image_size=128).image_size == 128


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variant": "vgg"}, "no such variant"),
        ({"classes": 0}, "cannot be made"),
        ({"classes": 1_000_001}, "cannot be made"),
        ({"width": 0.0}, "cannot be made"),
        ({"width": -1.0}, "cannot be made"),
        ({"width": 8.5}, "cannot be made"),
        ({"width": math.nan}, "cannot be made"),
        ({"image_size": 62}, "too small or too large"),
        ({"image_size": 1025}, "too small or too large"),
        ({"image_size": -1}, "too small or too large"),
    ],
)
def test_a_network_that_cannot_be_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        NetworkSpec(**fields)


def test_an_unknown_variant_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        NetworkSpec(variant="vgg")
    assert caught.value.got == "vgg"
    assert caught.value.expected == "paper, unpadded, bvlc, caffenet, owt"


def test_an_image_that_the_pools_use_up_is_refused_with_the_layer() -> None:
    with pytest.raises(InputError, match="too small for pool5") as caught:
        layers_from_network(NetworkSpec(variant="unpadded", image_size=63))
    assert caught.value.remedy == "use a larger image size"


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec(),
        NetworkSpec(variant="caffenet", classes=3, width=0.25, image_size=224, softmax=True),
    ],
)
def test_a_spec_survives_json(spec: NetworkSpec) -> None:
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "change",
    [{"variant": None}, {"classes": "many"}, {"classes": None}, {"width": []}, {"image_size": {}}],
)
def test_a_spec_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        NetworkSpec.from_json({**NetworkSpec().to_json(), **change})


@pytest.mark.parametrize("name", ["variant", "classes", "width", "image_size", "softmax"])
def test_a_spec_with_a_missing_field_is_refused(name: str) -> None:
    values = NetworkSpec().to_json()
    del values[name]
    with pytest.raises(InputError, match="cannot be read"):
        NetworkSpec.from_json(values)


@pytest.mark.parametrize("name", ["classes", "image_size"])
def test_a_spec_with_an_infinite_count_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        NetworkSpec.from_json({**NetworkSpec().to_json(), name: math.inf})
