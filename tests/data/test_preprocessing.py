"""Images become the tensors that torchvision and Caffe make of them."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from alexnet_deploy.data.preprocessing import batch_from_images, resized, square_from_image
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.specs import Interpolation, Preprocessing, Resize, fingerprint
from alexnet_deploy.weights import CAFFE_PREPROCESSING

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Height and width: portrait, landscape, square, odd, smaller than the crop, already of the size.
SIZES = [(375, 500), (500, 333), (301, 301), (257, 256), (256, 256), (100, 37), (41, 199), (224, 225), (1, 1), (3, 700)]
MODES = {
    Interpolation.NEAREST: InterpolationMode.NEAREST,
    Interpolation.BILINEAR: InterpolationMode.BILINEAR,
    Interpolation.BICUBIC: InterpolationMode.BICUBIC,
}


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth, with every channel another."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows * 255 / max(height - 1, 1), columns * 255 / max(width - 1, 1), (rows + columns) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("interpolation", [Interpolation.BILINEAR, Interpolation.BICUBIC])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_default_is_torchvisions_imagenet_recipe(height: int, width: int, interpolation: Interpolation) -> None:
    recipe = transforms.Compose(
        [
            transforms.Resize(256, interpolation=MODES[interpolation]),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    for pixels in (noise(height, width, 3), photograph(height, width)):
        wanted = recipe(Image.fromarray(pixels)).numpy()
        got = batch_from_images([pixels], Preprocessing(interpolation=interpolation))[0]
        # A fifth of a thousandth of one step of a byte.
        assert float(np.abs(got - wanted).max()) <= 2e-4 / 255 / min(STD)


@pytest.mark.parametrize("interpolation", list(Interpolation))
@pytest.mark.parametrize(("height", "width"), [(28, 28), (375, 500), (41, 199)])
def test_stretching_is_torchvisions_resize_to_a_square(height: int, width: int, interpolation: Interpolation) -> None:
    spec = Preprocessing(image_size=99, resize_size=99, resize=Resize.STRETCH, interpolation=interpolation)
    pixels = noise(height, width, 3)
    wanted = transforms.Resize((99, 99), interpolation=MODES[interpolation])(Image.fromarray(pixels))
    assert np.array_equal(square_from_image(pixels, spec), np.asarray(wanted))


def test_stretching_to_more_than_the_input_crops_the_centre() -> None:
    spec = Preprocessing(image_size=99, resize_size=120, resize=Resize.STRETCH)
    pixels = noise(50, 80, 3)
    recipe = transforms.Compose([transforms.Resize((120, 120)), transforms.CenterCrop(99)])
    assert np.array_equal(square_from_image(pixels, spec), np.asarray(recipe(Image.fromarray(pixels))))


def test_an_image_of_the_right_size_is_not_touched() -> None:
    spec = Preprocessing(image_size=99, resize_size=99)
    pixels = noise(99, 99, 3)
    assert np.array_equal(square_from_image(pixels, spec), pixels)


def test_caffes_recipe_is_blue_first_and_only_subtracts_the_mean() -> None:
    caffe: dict[str, Any] = dict(CAFFE_PREPROCESSING)
    spec = Preprocessing(image_size=227, resize_size=227, **caffe)
    pixels = noise(227, 227, 3)
    wanted = pixels[:, :, ::-1].astype(np.float64) - np.array([104.00699, 116.66877, 122.67892])
    got = batch_from_images([pixels], spec)[0]
    assert float(np.abs(got - wanted.transpose(2, 0, 1)).max()) <= 2e-5


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_mean_and_deviation_are_given_in_the_order_of_the_networks_channels(order: str) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    spec = Preprocessing(image_size=64, resize_size=64, channel_order=order, mean=mean, std=std)
    pixels = noise(64, 64, 3)
    got = batch_from_images([pixels], spec)[0]
    for channel, colour in enumerate(order):
        wanted = (pixels[:, :, "rgb".index(colour)] / 255.0 - mean[channel]) / std[channel]
        np.testing.assert_allclose(got[channel], wanted, rtol=0, atol=2e-6)


def test_a_grey_image_is_repeated_into_three_channels() -> None:
    grey = noise(60, 91)
    spec = Preprocessing(image_size=64, resize_size=80)
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    got = batch_from_images([grey, colour], spec)
    assert np.array_equal(got[0], got[1])
    assert not np.array_equal(got[0, 0], got[0, 1])


def test_images_of_any_sizes_make_one_batch() -> None:
    spec = Preprocessing(image_size=64, resize_size=64)
    images = [noise(28, 28), noise(100, 50, 3), noise(64, 64, 3)]
    batch = batch_from_images(images, spec)
    assert batch.shape == (3, 3, 64, 64)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert all(np.array_equal(batch[i], batch_from_images([image], spec)[0]) for i, image in enumerate(images))
    assert torch.from_numpy(batch).is_contiguous()


def test_no_images_make_an_empty_batch() -> None:
    assert batch_from_images([], Preprocessing()).shape == (0, 3, 224, 224)


def test_a_mirrored_image_is_taken_as_it_is() -> None:
    pixels = noise(64, 64, 3)
    spec = Preprocessing(image_size=64, resize_size=64)
    assert np.array_equal(batch_from_images([pixels[:, ::-1]], spec), batch_from_images([pixels], spec)[..., ::-1])


def test_an_image_too_narrow_to_be_resized_is_refused() -> None:
    """Its longer side would become five thousand million pixels."""
    with pytest.raises(DataError):
        square_from_image(np.zeros((1, 20_000_000), np.uint8), Preprocessing())


def test_another_input_size_crops_the_same_share_away() -> None:
    spec = Preprocessing()
    assert resized(spec, 224) is spec
    smaller = resized(spec, 112)
    assert (smaller.image_size, smaller.resize_size) == (112, 128)
    assert dataclasses.replace(smaller, image_size=224, resize_size=256) == spec
    stretched = Preprocessing(image_size=227, resize_size=227, resize=Resize.STRETCH)
    assert (resized(stretched, 99).image_size, resized(stretched, 99).resize_size) == (99, 99)


CHANGES: list[dict[str, Any]] = [
    {"image_size": 223},
    {"resize": Resize.STRETCH},
    {"resize_size": 257},
    {"interpolation": Interpolation.BICUBIC},
    {"channel_order": "bgr"},
    {"scale": 1.0},
    {"mean": (0.485, 0.456, 0.407)},
    {"std": (0.229, 0.224, 0.226)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_the_fingerprint_changes_with_every_field(change: dict[str, Any]) -> None:
    assert Preprocessing(**change).fingerprint != Preprocessing().fingerprint


def test_the_changes_above_name_every_field() -> None:
    assert {name for change in CHANGES for name in change} == {f.name for f in dataclasses.fields(Preprocessing)}


def test_the_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert Preprocessing().fingerprint == Preprocessing().fingerprint
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len(Preprocessing().fingerprint) == 16


@pytest.mark.parametrize("change", [{}, *CHANGES], ids=lambda change: next(iter(change), "default"))
def test_a_description_survives_json(change: dict[str, Any]) -> None:
    spec = Preprocessing(**change)
    again = Preprocessing.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.fingerprint == spec.fingerprint


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": 0},
        {"image_size": 257},
        {"image_size": 5000, "resize_size": 5000},
        {"resize_size": 9000},
        {"channel_order": "rgba"},
        {"channel_order": "rrr"},
        {"channel_order": "gbr"},
        {"channel_order": ""},
        {"std": (1.0, 0.0, 1.0)},
        {"std": (1.0, 1.0, -1.0)},
        {"std": (1.0, 1.0, math.nan)},
    ],
)
def test_a_description_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="preprocessing has"):
        Preprocessing(**fields)


@pytest.mark.parametrize(
    "change",
    [
        {"resize": "squeeze"},
        {"interpolation": "lanczos"},
        {"mean": [1, 2]},
        {"mean": [1, 2, 3, 4]},
        {"std": None},
        {"std": "abc"},
        {"image_size": "large"},
        {"scale": []},
        {"unknown": 1},
        {"image_size": math.inf},
    ],
)
def test_a_garbled_description_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Preprocessing.from_json({**Preprocessing().to_json(), **change})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Preprocessing)])
def test_a_description_with_a_missing_field_is_refused(name: str) -> None:
    values = Preprocessing().to_json()
    del values[name]
    with pytest.raises(InputError, match="cannot be read"):
        Preprocessing.from_json(values)
