"""Batches hold every image once, in order, and say which ones they left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.data.batches import PreprocessedImages, Skipped, batches, load_batch, undamaged
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import ImageError
from alexnet_deploy.specs import Preprocessing, Resize
from tests.conftest import random_images

SPEC = Preprocessing(image_size=64, resize_size=64, resize=Resize.STRETCH)


class Damaged(ImageSource):
    """Another source in which some images cannot be read."""

    def __init__(self, source: ImageSource, bad: set[int]) -> None:
        self.source, self.bad = source, bad
        self.name, self.classes, self.labels = source.name, source.classes, source.labels

    def image(self, index: int) -> NDArray[np.uint8]:
        if index in self.bad:
            raise ImageError(f"{Path('photos') / str(index)}.jpg cannot be read as an image")
        return self.source.image(index)


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2]), (3, 1, [1] * 3)])
def test_every_image_comes_once_and_in_order(count: int, size: int, sizes: list[int]) -> None:
    source = random_images(count)
    found = list(batches(source, size, SPEC))
    assert [len(batch.labels) for batch in found] == sizes
    assert np.concatenate([batch.indices for batch in found]).tolist() == list(range(count))
    assert np.array_equal(np.concatenate([batch.labels for batch in found]), source.labels)
    wanted = batch_from_images([source.image(i) for i in range(count)], SPEC)
    assert np.array_equal(np.concatenate([batch.images for batch in found]), wanted)


def test_a_batch_has_the_types_that_a_network_takes() -> None:
    batch = next(batches(random_images(4), 3, SPEC))
    assert batch.images.dtype == np.float32
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.labels.dtype == batch.indices.dtype == np.int64


def test_named_images_come_in_the_named_order() -> None:
    source = random_images(9)
    found = list(batches(source, 2, SPEC, indices=[8, 0, 3]))
    assert [batch.indices.tolist() for batch in found] == [[8, 0], [3]]
    assert found[1].labels.tolist() == [3]
    assert np.array_equal(found[0].images, batch_from_images([source.image(8), source.image(0)], SPEC))


def test_no_images_make_no_batches() -> None:
    assert list(batches(random_images(3), 2, SPEC, indices=[])) == []


def test_the_named_images_are_mirrored_and_no_others() -> None:
    source = random_images(5, colour=True)
    plain = np.concatenate([batch.images for batch in batches(source, 2, SPEC)])
    flips = np.array([True, False, False, True, True])
    mirrored = np.concatenate([batch.images for batch in batches(source, 2, SPEC, flips=flips)])
    for index, flip in enumerate(flips):
        # The image is mirrored before it is resized, which rounds to bytes.
        wanted = plain[index, :, :, ::-1] if flip else plain[index]
        assert float(np.abs(mirrored[index] - wanted).max()) <= (1.01 / 255 / 0.224 if flip else 0)


def test_flips_follow_the_named_order_and_not_the_index() -> None:
    source = random_images(4)
    wanted = batch_from_images([source.image(3), source.image(0)[:, ::-1]], SPEC)
    found = load_batch(source, np.array([3, 0]), SPEC, flips=np.array([False, True]))
    assert np.array_equal(found.images, wanted)


def test_a_damaged_image_is_an_error_that_names_it() -> None:
    source = Damaged(random_images(6), {4})
    seen = []
    with pytest.raises(ImageError, match=r"photos/4\.jpg"):
        for batch in batches(source, 2, SPEC):
            seen += batch.indices.tolist()
    assert seen == [0, 1, 2, 3]


def test_damaged_images_can_be_left_out_and_are_named() -> None:
    source = Damaged(random_images(7), {1, 4})
    skipped = Skipped()
    found = list(batches(source, 3, SPEC, skipped=skipped))
    assert [batch.indices.tolist() for batch in found] == [[0, 2], [3, 5], [6]]
    assert [batch.labels.tolist() for batch in found] == [[0, 2], [3, 5], [6]]
    assert len(skipped) == 2
    assert ["photos/1.jpg" in skipped.names[0], "photos/4.jpg" in skipped.names[1]] == [True, True]


def test_flips_stay_with_their_image_where_another_is_left_out() -> None:
    source = Damaged(random_images(3), {0})
    found = load_batch(source, np.arange(3), SPEC, flips=np.array([True, False, True]), skipped=Skipped())
    wanted = batch_from_images([source.image(1), source.image(2)[:, ::-1]], SPEC)
    assert np.array_equal(found.images, wanted)


def test_a_batch_of_which_nothing_is_left_is_left_out() -> None:
    skipped = Skipped()
    found = list(batches(Damaged(random_images(6), {2, 3}), 2, SPEC, skipped=skipped))
    assert [batch.indices.tolist() for batch in found] == [[0, 1], [4, 5]]
    assert len(skipped) == 2


def test_a_consumer_may_stop_early() -> None:
    stream = batches(random_images(10), 2, SPEC)
    assert next(stream).indices.tolist() == [0, 1]
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_undamaged_images_are_found_and_the_others_named() -> None:
    source = Damaged(random_images(6), {0, 3})
    skipped = Skipped()
    assert undamaged(source, skipped).tolist() == [1, 2, 4, 5]
    assert ["0.jpg" in skipped.names[0], "3.jpg" in skipped.names[1], len(skipped)] == [True, True, 2]


def test_where_nothing_may_be_skipped_every_image_is_taken_unread() -> None:
    assert undamaged(Damaged(random_images(3), {0, 1, 2}), None).tolist() == [0, 1, 2]


def test_preprocessed_images_are_made_when_a_slice_is_asked_for() -> None:
    source = Damaged(random_images(6), {0})
    images = PreprocessedImages(source=source, spec=SPEC, indices=np.array([5, 0, 2, 4]))
    assert len(images) == 4
    assert np.array_equal(images[2:], batch_from_images([source.image(2), source.image(4)], SPEC))
    assert images[9:].shape == (0, 3, 64, 64)
    with pytest.raises(ImageError, match=r"0\.jpg"):
        images[:2]
