"""A set of images is its name; whoever opens it finds the same ones, or is told that they are others."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import FolderSource
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.scale.images import ImageSet, absolute, file_name


def test_what_travels_holds_no_images(pictures: Path) -> None:
    opened = ImageSet(data=str(pictures))
    assert len(opened.source) == 200
    travelled = pickle.dumps(opened)
    assert len(travelled) < 1000
    found = pickle.loads(travelled)  # noqa: S301, TID251 - what Ray does with it
    assert found == opened and "source" not in vars(found) and len(found.source) == 200


def test_calibration_draws_the_same_images_everywhere(pictures: Path) -> None:
    one, other = (ImageSet(data=str(pictures), split="train", drawn=20).source for _ in range(2))
    assert [one.content_hash(i) for i in range(20)] == [other.content_hash(i) for i in range(20)]
    shipped = ImageSet(data="shipped", split="train", drawn=5).source
    assert len(shipped) == 5
    assert shipped.content_hash(4) == shipped_images(Split.CALIBRATION).content_hash(4)


def test_a_set_that_is_another_on_a_worker_is_an_error(pictures: Path) -> None:
    with pytest.raises(DataError, match="another") as caught:
        ImageSet(data=str(pictures)).opened_elsewhere(201)
    assert caught.value.got == "200 images" and "201" in str(caught.value.expected)


def test_a_set_that_is_not_there_on_a_worker_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        _ = ImageSet(data=str(tmp_path / "gone")).source
    with pytest.raises(DataError, match="cannot open") as caught:
        ImageSet(data=str(tmp_path / "gone")).opened_elsewhere(3)
    assert "on every node" in str(caught.value.expected)


def test_names_are_written_in_full_where_they_are_folders(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert absolute("here") == str(tmp_path / "here")
    assert absolute("cifar10:here") == f"cifar10:{tmp_path / 'here'}"
    for name in ("shipped", "fashion-mnist", "not-here", "cifar10:not-here"):
        assert absolute(name) == name


def test_a_file_is_named_below_its_folder(pictures: Path) -> None:
    source = FolderSource(pictures)
    assert pictures / str(file_name(source, 7)) == source.paths[7]
    assert file_name(shipped_images(Split.EVALUATION), 0) is None
