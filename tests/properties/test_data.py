"""Images come through batches and preprocessing the same, however they are grouped."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from alexnet_deploy.data.batches import PreprocessedImages, batches, load_batch
from alexnet_deploy.data.preprocessing import batch_from_images, resized
from alexnet_deploy.data.sources import ArraySource
from alexnet_deploy.specs import Preprocessing
from tests.conftest import random_images
from tests.properties.test_json import preprocessings

FEW = settings(derandomize=True, deadline=None, max_examples=30)
SMALL = Preprocessing(image_size=5, resize_size=6)
colour = hnp.arrays(np.uint8, st.tuples(st.integers(3, 12), st.integers(3, 12), st.just(3)))
grey = hnp.arrays(np.uint8, st.tuples(st.integers(3, 12), st.integers(3, 12)))
small_ones = preprocessings(largest=25)


@given(st.lists(st.integers(0, 11), max_size=20), st.integers(1, 25), st.booleans())
@FEW
def test_however_images_are_grouped_they_are_those_of_one_batch(indices: list[int], size: int, mirrored: bool) -> None:
    source, chosen = random_images(12, side=7, colour=True), np.asarray(indices, np.int64)
    flips = np.full(len(chosen), mirrored)
    whole = load_batch(source, chosen, SMALL, flips=flips)
    parts = list(batches(source, size, SMALL, indices=chosen, flips=flips))
    assert [len(part.indices) for part in parts[:-1]] == [size] * (len(parts) - 1)
    for name in ("images", "labels", "indices"):
        joined = np.concatenate([getattr(part, name) for part in parts]) if parts else getattr(whole, name)[:0]
        np.testing.assert_array_equal(joined, getattr(whole, name))
    held = PreprocessedImages(source=source, spec=SMALL, indices=chosen)
    if not mirrored:
        np.testing.assert_array_equal(held[: len(held)], whole.images)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=10), st.lists(st.integers(0, 100), min_size=1, max_size=10))
@FEW
def test_a_subset_of_a_subset_is_a_subset(first: list[int], second: list[int]) -> None:
    source = random_images(10, side=3)
    places = [place % len(first) for place in second]
    found = source.subset(first).subset(places)
    assert len(found) == len(places)
    for index, place in enumerate(places):
        np.testing.assert_array_equal(found.image(index), source.image(first[place]))
        assert found.labels[index] == source.labels[first[place]]
        assert found.content_hash(index) == source.content_hash(first[place])


@given(colour, small_ones)
@FEW
def test_the_other_order_of_channels_is_the_reverse(pixels: NDArray[np.uint8], spec: Preprocessing) -> None:
    """Where mean and deviation are turned with them."""
    other = dataclasses.replace(
        spec,
        channel_order="bgr" if spec.channel_order == "rgb" else "rgb",
        mean=spec.mean[::-1],
        std=spec.std[::-1],
    )
    one, turned = batch_from_images([pixels], spec), batch_from_images([pixels], other)
    np.testing.assert_array_equal(one, turned[:, ::-1])
    assert one.dtype == np.float32 and np.isfinite(one).all()
    assert one.shape == (1, 3, spec.image_size, spec.image_size)


@given(grey, small_ones)
@FEW
def test_a_grey_image_is_the_colour_image_of_equal_channels(pixels: NDArray[np.uint8], spec: Preprocessing) -> None:
    three = np.repeat(pixels[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(batch_from_images([pixels], spec), batch_from_images([three], spec))


@given(st.integers(0, 255), st.integers(3, 12), st.integers(3, 12), small_ones)
@FEW
def test_an_image_of_one_colour_stays_one(value: int, height: int, width: int, spec: Preprocessing) -> None:
    """No filter, crop or rounding may make an edge where there is none."""
    batch = batch_from_images([np.full((height, width), value, np.uint8)], spec)
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        expected = (value * spec.scale - mean) / std
        assert np.ptp(batch[0, channel]) == 0
        size = (abs(value * spec.scale) + abs(mean)) / std
        np.testing.assert_allclose(batch[0, channel], expected, atol=1e-5 * max(size, 1e-6))


@given(preprocessings(), st.integers(1, 300), st.integers(1, 300))
@FEW
def test_another_input_size_is_what_was_asked_for_and_back_is_nearly_the_same(
    spec: Preprocessing, side: int, other: int
) -> None:
    found = resized(spec, side)
    assert found.image_size == side <= found.resize_size
    assert dataclasses.replace(found, image_size=spec.image_size, resize_size=spec.resize_size) == spec
    assert resized(spec, spec.image_size) == spec
    assert resized(found, side) == found


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))), st.data())
@FEW
def test_an_image_is_known_by_its_pixels_and_its_shape(images: NDArray[np.uint8], data: st.DataObject) -> None:
    source = ArraySource(images, np.zeros(len(images), np.int64), ("a",), "x")
    for one in range(len(images)):
        for other in range(len(images)):
            same = bool((images[one] == images[other]).all())
            assert (source.content_hash(one) == source.content_hash(other)) == same
    flat = ArraySource(images.reshape(len(images), 1, -1), np.zeros(len(images), np.int64), ("a",), "x")
    if images.shape[1] != 1:
        assert flat.content_hash(0) != source.content_hash(0)
