"""Predictions are the softmax of the session's logits, most likely first, for the images that were named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.data.batches import Skipped
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.sources import read_image
from alexnet_deploy.errors import ImageError, InputError
from alexnet_deploy.prediction import image_paths, labels_from_file, predictions
from alexnet_deploy.runtimes.session import Session
from tests.conftest import SMALL_SIDE, small_info

LABELS = tuple("abcdefghij")


class Fixed(Session):
    """Gives the same outputs for every image and keeps what it saw."""

    image_shape = (3, SMALL_SIDE, SMALL_SIDE)

    def __init__(self, outputs: list[float]) -> None:
        self.outputs, self.seen = np.asarray([outputs], np.float32), list[NDArray[np.float32]]()

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(images)
        return self.outputs


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_logits_become_probabilities_most_likely_first(picture: Path) -> None:
    logits = [0.0, 3.0, -1.0, 2.0, 0.5, 1.0, -2.0, 0.0, 0.0, 5.0]
    (found,) = predictions(Fixed(logits), small_info(), [picture], LABELS)
    powers = np.exp(np.asarray(logits))
    assert found.path == picture
    assert [label for label, _ in found.classes] == ["j", "b", "d", "f", "e"]
    np.testing.assert_allclose(
        [probability for _, probability in found.classes], sorted(powers / powers.sum(), reverse=True)[:5], rtol=1e-6
    )


def test_what_is_a_distribution_already_is_not_changed(picture: Path) -> None:
    distribution = [0.1, 0.6, 0.05, 0.05, 0.05, 0.05, 0.04, 0.03, 0.02, 0.01]
    (found,) = predictions(Fixed(distribution), small_info(), [picture], LABELS)
    assert found.classes[0][0] == "b"
    assert found.classes[0][1] == pytest.approx(0.6, rel=1e-6)


def test_large_logits_do_not_overflow(picture: Path) -> None:
    (found,) = predictions(Fixed([5000.0] + [0.0] * 9), small_info(), [picture], LABELS)
    assert found.classes[0] == ("a", 1.0)


def test_fewer_than_five_classes_are_all_given(picture: Path) -> None:
    info = dataclasses.replace(small_info(), network=None, labels=())
    (found,) = predictions(Fixed([0.0, 1.0, 2.0]), info, [picture], ())
    assert [label for label, _ in found.classes] == ["2", "1", "0"]
    assert sum(probability for _, probability in found.classes) == pytest.approx(1.0)


def test_images_go_through_the_models_preprocessing(picture: Path) -> None:
    session = Fixed([0.0] * 10)
    list(predictions(session, small_info(), [picture, picture], LABELS))
    expected = batch_from_images([read_image(picture)], small_info().preprocessing)
    assert len(session.seen) == 2
    np.testing.assert_array_equal(session.seen[0], expected)


def test_labels_that_do_not_fit_are_refused(picture: Path) -> None:
    with pytest.raises(InputError, match="labels") as caught:
        list(predictions(Fixed([0.0] * 10), small_info(), [picture], LABELS[:9]))
    assert (caught.value.got, caught.value.expected) == ("9", "10")


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(ImageError, match=r"broken\.png"):
        list(predictions(Fixed([0.0] * 10), small_info(), [path], LABELS))


def test_files_and_folders_give_their_images_in_order(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpg", "b/deep/3.bmp", "b/notes.txt", "a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = image_paths([str(tmp_path / "b"), str(tmp_path / "a.png"), str(tmp_path / "b/notes.txt")])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "b/1.jpg", "b/2.PNG", "b/deep/3.bmp", "a.png", "b/notes.txt",
    ]  # fmt: skip


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="no images") as caught:
        image_paths([str(tmp_path)])
    assert ".png" in str(caught.value.expected)


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.png") as caught:
        image_paths([str(tmp_path / "nothing.png")])
    assert caught.value.remedy


def test_labels_are_the_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("T-shirt\n  Ankle boot  \n\nBag\n")
    assert labels_from_file(tmp_path / "labels.txt") == ("T-shirt", "Ankle boot", "Bag")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None], ids=["binary", "missing"])
def test_labels_that_cannot_be_read_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"labels\.txt") as caught:
        labels_from_file(path)
    assert caught.value.expected


def test_damaged_images_can_be_left_out_and_classes_be_fewer(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    skipped = Skipped()
    found = list(
        predictions(Fixed([0.0] * 10), small_info(), [tmp_path / "x.png", picture], (), top=2, skipped=skipped)
    )
    assert [len(each.classes) for each in found] == [2] and found[0].path == picture
    assert len(skipped) == 1 and "x.png" in skipped.names[0]
