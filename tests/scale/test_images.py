"""A set of images is its name; whoever opens it finds the same ones, or is told that they are others."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import FolderSource
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.scale.images import ImageSet, absolute, file_name, witness_of
from tests.conftest import random_images


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
        ImageSet(data=str(pictures)).opened_elsewhere(201, "")
    assert caught.value.got == "200 images" and "201" in str(caught.value.expected)


def copied(source: Path, target: Path) -> ImageSet:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return ImageSet(data=str(target))


def rename(folder: Path) -> None:
    path = next(folder.rglob("150.png"))
    path.rename(path.with_name("151b.png"))


def move(folder: Path) -> None:
    first, second, *_ = sorted(folder.iterdir())
    path = min(first.iterdir())
    path.rename(second / path.name)


@pytest.mark.parametrize("change", [rename, move])
def test_as_many_images_of_other_names_or_classes_are_another_set(
    change: Callable[[Path], None], pictures: Path, tmp_path: Path
) -> None:
    here = copied(pictures, tmp_path / "set")
    count, listed = len(here.source), here.listed
    assert len(ImageSet(data=here.data).opened_elsewhere(count, listed)) == count
    change(tmp_path / "set")
    with pytest.raises(DataError, match="another") as caught:
        ImageSet(data=here.data).opened_elsewhere(count, listed)
    assert "other names" in str(caught.value.got)


def test_files_of_the_same_names_are_told_by_their_sizes_and_the_first_ones_bytes(
    pictures: Path, tmp_path: Path
) -> None:
    source = copied(pictures, tmp_path / "set").source
    indices = np.arange(10, 30)
    before = witness_of(source, indices)
    assert before == witness_of(source, indices) != witness_of(source, indices[::-1])
    first, other = (source.file_of(index) for index in (10, 25))
    assert first is not None and other is not None
    kept = other.read_bytes()
    other.write_bytes(kept + b"x")
    assert witness_of(source, indices) != before
    other.unlink()
    assert witness_of(source, indices) != before
    other.write_bytes(kept)
    assert witness_of(source, indices) == before
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    assert witness_of(source, indices) != before
    drawn = source.subset([10, 25])
    assert witness_of(drawn, np.arange(2)) == witness_of(source, np.array([10, 25]))


def test_images_in_memory_are_told_by_every_pixel() -> None:
    source = random_images(9)
    before = witness_of(source, np.arange(9))
    source.images[8].flat[0] ^= 1
    assert witness_of(source, np.arange(9)) != before == witness_of(random_images(9), np.arange(9))


def test_a_set_that_is_not_there_on_a_worker_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        _ = ImageSet(data=str(tmp_path / "gone")).source
    with pytest.raises(DataError, match="cannot open") as caught:
        ImageSet(data=str(tmp_path / "gone")).opened_elsewhere(3, "")
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
