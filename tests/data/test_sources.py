"""Images come out of idx files, CIFAR's batches and folders as they went in; a damaged file is named."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.data import sources
from alexnet_deploy.data.sources import ArraySource, FolderSource, read_cifar, read_idx, read_image
from alexnet_deploy.errors import AlexnetDeployError, DataError, ImageError, InputError
from tests.conftest import random_images


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return header + array.tobytes()


# idx


@settings(deadline=None, max_examples=40)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), packed=st.booleans())
def test_an_idx_file_comes_back(tmp_path_factory: pytest.TempPathFactory, shape: list[int], packed: bool) -> None:
    array = noise(*shape)
    path = tmp_path_factory.mktemp("idx") / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert found.shape == array.shape
    assert np.array_equal(found, array)


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 10, 16, 17, 100, 1583])
def test_an_idx_file_that_was_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    whole = idx_bytes(noise(2, 28, 28))
    assert len(whole) == 1584
    (tmp_path / "x").write_bytes(whole[:cut])
    with pytest.raises(DataError, match="cannot be read as an idx file"):
        read_idx(tmp_path / "x")


def test_an_idx_file_with_bytes_too_many_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(idx_bytes(noise(2, 28, 28)) + b"\0")
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path / "x")
    assert "(2, 28, 28), but 1569 bytes or more follow" in str(caught.value.got)


@pytest.mark.parametrize("magic", [b"\0\0\x0d\x03", b"\1\0\x08\x03", b"\x89PNG", b"\0\0\x08\x00", b"\0\0\x08\xff"])
def test_a_file_that_is_not_idx_of_bytes_is_refused(magic: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(magic + idx_bytes(noise(2, 28, 28))[4:])
    with pytest.raises(DataError, match="cannot be read as an idx file"):
        read_idx(tmp_path / "x")


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.gz cannot be read"):
        read_idx(tmp_path / "nowhere.gz")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_gzipped_idx_file_that_was_cut_short_is_refused(share: float, tmp_path: Path) -> None:
    whole = gzip.compress(idx_bytes(noise(2, 28, 28)))
    (tmp_path / "x.gz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match="cannot be read as an idx file"):
        read_idx(tmp_path / "x.gz")


def test_a_gzipped_idx_file_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(idx_bytes(noise(2, 28, 28)), mtime=0)
    for at in range(10, len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        (tmp_path / "x.gz").write_bytes(bytes(changed))
        with pytest.raises(DataError, match="cannot be read as an idx file"):
            read_idx(tmp_path / "x.gz")


def test_a_name_in_gz_that_is_not_gzipped_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(idx_bytes(noise(2, 3)))
    with pytest.raises(DataError, match="cannot be read as an idx file"):
        read_idx(tmp_path / "x.gz")


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_that_unpacks_to_too_much_is_refused(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = idx_bytes(np.zeros((100, 28, 28), np.uint8))
    path = tmp_path / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(data) if packed else data)
    monkeypatch.setattr(sources, "MAX_UNPACKED_BYTES", len(data))
    assert read_idx(path).shape == (100, 28, 28)
    monkeypatch.setattr(sources, "MAX_UNPACKED_BYTES", len(data) - 1)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert ("unpacks to more than" if packed else "is too large") in str(caught.value)


# CIFAR


def cifar_bytes(images: NDArray[np.uint8], labels: list[int]) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, planes, strict=True))


def test_cifar_batches_come_back_in_order(tmp_path: Path) -> None:
    images, labels = noise(5, 32, 32, 3), [3, 0, 9, 9, 1]
    (tmp_path / "1.bin").write_bytes(cifar_bytes(images[:2], labels[:2]))
    (tmp_path / "2.bin").write_bytes(cifar_bytes(images[2:], labels[2:]))
    found, found_labels = read_cifar([tmp_path / "1.bin", tmp_path / "2.bin"])
    assert np.array_equal(found, images)
    assert found.flags.c_contiguous
    assert found_labels.tolist() == labels
    assert found_labels.dtype == np.int64


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 6145])
def test_a_cifar_batch_that_is_no_whole_number_of_records_is_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "1.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match="is not a CIFAR-10 binary batch") as caught:
        read_cifar([tmp_path / "1.bin"])
    assert caught.value.got == f"{size} bytes"


def test_a_missing_cifar_batch_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1\.bin cannot be read"):
        read_cifar([tmp_path / "1.bin"])


def test_a_gzipped_cifar_batch_that_is_damaged_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(bytes(3073), mtime=0))
    packed[10] = 0xFF
    (tmp_path / "1.bin.gz").write_bytes(bytes(packed))
    with pytest.raises(DataError, match="cannot be read"):
        read_cifar([tmp_path / "1.bin.gz"])


# Arrays


def test_an_array_source_gives_its_images() -> None:
    source = random_images(5)
    assert len(source) == 5
    assert np.array_equal(source.image(3), source.images[3])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (2, [0, 1, 0], "images and labels do not match"),
        (0, [], "images and labels do not match"),
        (2, [0, 2], "a label is out of range"),
        (2, [-1, 0], "a label is out of range"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images: int, labels: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        ArraySource(noise(images, 4, 4), np.array(labels, np.int64), ("a", "b"), "x")


def test_the_content_hash_goes_by_shape_and_pixels_alone() -> None:
    pixels = noise(6, 4)
    images = np.stack([pixels, pixels, pixels.copy()])
    images[1, 0, 0] ^= 1
    source = ArraySource(images, np.zeros(3, np.int64), ("a",), "x")
    assert source.content_hash(0) == source.content_hash(2) != source.content_hash(1)
    other = ArraySource(pixels.reshape(1, 4, 6), np.zeros(1, np.int64), ("a",), "y")
    assert other.content_hash(0) != source.content_hash(0)
    assert source.content_hash(0) == hashlib.sha256(b"(6, 4)" + pixels.tobytes()).hexdigest()


def test_the_content_hash_of_a_file_is_that_of_its_pixels(tmp_path: Path) -> None:
    pixels = noise(6, 4)
    for name, compression in (("a", 0), ("b", 9)):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "x.png", compress_level=compression)
    source = FolderSource(tmp_path)
    array = ArraySource(pixels[None], np.zeros(1, np.int64), ("a",), "x")
    assert source.content_hash(0) == source.content_hash(1) == array.content_hash(0)


def test_a_subset_gives_the_named_images_in_the_named_order() -> None:
    source = random_images(8)
    part = source.subset([5, 2, 2], name="part")
    assert (len(part), part.name, part.classes) == (3, "part", source.classes)
    assert part.labels.tolist() == [5, 2, 2]
    assert all(np.array_equal(part.image(i), source.image(j)) for i, j in enumerate([5, 2, 2]))
    assert part.content_hash(0) == source.content_hash(5)
    again = part.subset([1])
    assert again.name == "part"
    assert np.array_equal(again.image(0), source.image(2))


# Folders


def tree(folder: Path) -> Path:
    for label, name in enumerate(("cat", "ant", "bee")):
        (folder / name / "deeper").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(noise(5, 6, 3, seed=10 * label + number)).save(folder / name / f"{number}.png")
    Image.fromarray(noise(7, 7)).save(folder / "bee" / "deeper" / "grey.PNG")
    (folder / "bee" / "notes.txt").write_text("not an image")
    (folder / "readme.png").write_text("beside the classes")
    return folder


def test_a_folder_a_class_is_read_in_alphabetical_order(tmp_path: Path) -> None:
    source = FolderSource(tree(tmp_path))
    assert source.classes == ("ant", "bee", "cat")
    assert source.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert [path.name for path in source.paths] == ["0.png", "1.png", "0.png", "1.png", "grey.PNG", "0.png", "1.png"]
    assert np.array_equal(source.image(0), noise(5, 6, 3, seed=10))
    assert np.array_equal(source.image(4), noise(7, 7))


def test_named_classes_decide_the_labels(tmp_path: Path) -> None:
    source = FolderSource(tree(tmp_path), classes=("cat", "dog", "ant"))
    assert source.classes == ("cat", "dog", "ant")
    assert source.labels.tolist() == [0, 0, 2, 2]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="holds no images") as caught:
        FolderSource(tmp_path)
    assert "1 folders" in str(caught.value.got)


# Files


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK"])
def test_every_mode_of_a_file_is_read_as_grey_or_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(5, 6, 3)).convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(path)
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == ((5, 6) if mode == "L" else (5, 6, 3))
    if mode in ("RGB", "L"):
        assert np.array_equal(pixels, np.asarray(image))


def test_a_grey_file_of_sixteen_bits_is_read_as_the_grey_it_shows(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png")
    grey = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    assert int(np.abs(grey.astype(int) - (levels >> 8).astype(int)).max()) <= 1


def test_a_palette_with_transparency_is_read_without_a_word(tmp_path: Path) -> None:
    image = Image.fromarray(noise(5, 6, 3)).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "x.png").shape == (5, 6, 3)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"<svg/>", bytes(1000)], ids=repr
)
def test_a_file_that_is_no_image_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"bad\.png cannot be read as an image") as caught:
        read_image(tmp_path / "bad.png")
    assert "--skip-bad" in str(caught.value.remedy)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png cannot be read"):
        read_image(tmp_path / "nowhere.png")


def test_a_folder_named_like_an_image_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(ImageError, match=r"x\.png cannot be read"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP", "PPM"])
def test_a_damaged_image_never_ends_in_another_error(form: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(16, 20, 3)).save(buffer, form)
    whole, draw, path = buffer.getvalue(), random.Random(0), tmp_path / "x.png"
    refused = 0
    for round_ in range(150):
        changed = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            changed[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(bytes(changed)[: draw.randrange(len(whole)) if round_ % 3 == 0 else None])
        try:
            read_image(path)
        except AlexnetDeployError as exc:
            assert isinstance(exc, ImageError)
            assert "x.png" in exc.problem
            refused += 1
    assert refused > 5


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(10, 11)).save(tmp_path / "x.png")
    monkeypatch.setattr(sources, "MAX_PIXELS", 110)
    assert read_image(tmp_path / "x.png").shape == (10, 11)
    monkeypatch.setattr(sources, "MAX_PIXELS", 109)
    with pytest.raises(ImageError, match=r"x\.png is too large") as caught:
        read_image(tmp_path / "x.png")
    assert caught.value.got == "11x10"


def test_an_image_that_pillow_takes_for_a_bomb_is_an_image_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(noise(10, 11)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(tmp_path / "x.png").shape == (10, 11)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ImageError, match=r"x\.png cannot be read"):
        read_image(tmp_path / "x.png")
