"""An image file is decoded as one of five formats, or refused; what is no file is not waited for."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.data import sources
from alexnet_deploy.data.sources import IMAGE_SUFFIXES, FolderSource, read_cifar, read_idx, read_image
from alexnet_deploy.errors import DataError, ImageError, InputError
from alexnet_deploy.limits import bounded_bytes, bounded_json
from alexnet_deploy.prediction import image_paths, labels_from_file
from tests.security import hostile
from tests.security.hostile import written

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) (w) file closefile\n"


def encoded(form: str) -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(target, form)
    return target.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP", "PPM"])
def test_the_formats_of_the_suffixes_are_read_under_any_name(form: str, tmp_path: Path) -> None:
    for suffix in IMAGE_SUFFIXES:
        assert read_image(written(tmp_path / f"x{suffix}", encoded(form))).shape == (8, 8, 3)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "ICO", "PDF", "TGA", "PCX", "SGI"])
def test_other_formats_are_refused_under_any_name(form: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read as an image") as caught:
        read_image(written(tmp_path / "x.png", encoded(form)))
    assert "JPEG" in str(caught.value.got) and "object at" not in str(caught.value)


def test_no_interpreter_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow opens PostScript, whatever it is called, and starts Ghostscript to decode it."""
    program = written(tmp_path / "bin" / "gs", f"#!/bin/sh\ntouch {tmp_path}/ran\n".encode())
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(ImageError):
        read_image(written(tmp_path / "x.jpg", EPS))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("pixels", [49, 50])
def test_pixels_are_counted_before_they_are_decoded(
    pixels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.png", hostile.png(10, 5))
    monkeypatch.setattr(sources, "MAX_PIXELS", pixels)
    if pixels == 50:
        assert read_image(path).shape == (5, 10, 3)
        return
    monkeypatch.setattr(sources, "_pixels", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="too large"):
        read_image(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(ImageError, match="cannot be read") as caught:
        read_image(written(tmp_path / "x.bmp", encoded("BMP")))
    assert caught.value.expected == "at most 100 bytes"


# Every reader is given a pipe that nobody writes to: a test that fails here waits for ever.
READERS: dict[str, Callable[[Path], object]] = {
    "image": read_image,
    "idx": read_idx,
    "idx.gz": read_idx,
    "cifar": lambda path: read_cifar([path]),
    "labels": labels_from_file,
    "bytes": lambda path: bounded_bytes(path, 10),
    "json": lambda path: bounded_json(path, 10),
}


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_not_opened(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{name}"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises((InputError, DataError)) as caught:
        READERS[name](path)
    assert kind in str(caught.value)


def test_a_passport_that_is_a_pipe_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.onnx.json")
    assert read_passport(tmp_path / "x.onnx") is None


def test_a_link_is_followed_to_an_image_and_to_nothing_else(tmp_path: Path) -> None:
    """Subsets of ImageNet are folders of links, so that a link that leaves its folder is no attack by itself."""
    real = written(tmp_path / "elsewhere" / "a.png", encoded("PNG"))
    secret = written(tmp_path / "secret", b"a password")
    folder = tmp_path / "data" / "class"
    folder.mkdir(parents=True)
    (folder / "a.png").symlink_to(real)
    (folder / "b.png").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    source = FolderSource(tmp_path / "data")
    assert [path.name for path in source.paths] == ["a.png", "b.png"]
    assert [path.name for path in image_paths([str(tmp_path / "data")])] == ["a.png", "b.png"]
    assert source.image(0).shape == (8, 8, 3)
    with pytest.raises(ImageError) as caught:
        source.image(1)
    assert "password" not in str(caught.value)


def test_batches_of_cifar_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [written(tmp_path / f"{index}.bin", bytes(3073)) for index in range(3)]
    monkeypatch.setattr(sources, "MAX_UNPACKED_BYTES", 3 * 3073)
    assert len(read_cifar(paths)[0]) == 3
    monkeypatch.setattr(sources, "MAX_UNPACKED_BYTES", 3 * 3073 - 1)
    with pytest.raises(DataError, match="cannot be read"):
        read_cifar(paths)


@pytest.mark.parametrize("count", [1, 2])
def test_a_file_is_read_up_to_its_bound_and_no_further(count: int, tmp_path: Path) -> None:
    path = written(tmp_path / "x", bytes(count))
    if count == 1:
        assert bounded_bytes(path, 1) == b"\0"
    else:
        with pytest.raises(InputError, match="too large"):
            bounded_bytes(path, 1)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "[" * 100_000, "{", "", '{"a": 1' + "0" * 5_000 + "}"])
def test_json_that_is_none_is_a_value_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        bounded_json(written(tmp_path / "x.json", text.encode()), 1_000_000)


def test_a_label_of_absurd_length_is_refused(tmp_path: Path) -> None:
    assert labels_from_file(written(tmp_path / "a", b"x" * 1_000)) == ("x" * 1_000,)
    with pytest.raises(InputError, match="asks for too much"):
        labels_from_file(written(tmp_path / "b", b"x" * 1_001))
