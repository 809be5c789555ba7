"""Images, sets of images, and the names of their classes."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from alexnet_deploy.data.catalog import open_data
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.sources import IMAGE_SUFFIXES, read_image
from alexnet_deploy.limits import MAX_PIXELS
from alexnet_deploy.prediction import labels_from_file, predictions
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.specs import Preprocessing, Resize
from alexnet_deploy.weights import ModelInfo
from tests.fuzz.mutate import INTEGERS, bytes_of, packed_of, png_of
from tests.fuzz.target import Target, require

_SMALL = Preprocessing(image_size=8, resize_size=9)
_FORMATS = {
    "PNG": ("L", "RGB", "RGBA", "P", "1", "LA", "I;16"), "JPEG": ("L", "RGB", "CMYK"), "BMP": ("L", "RGB", "P", "1"),
    "WEBP": ("RGB", "RGBA"), "PPM": ("L", "RGB", "1"), "GIF": ("P", "L"), "TIFF": ("L", "RGB", "CMYK", "I;16", "LA"),
    "ICO": ("RGBA",), "TGA": ("RGB",), "PCX": ("L", "RGB"), "SGI": ("L",), "DDS": ("RGBA",), "MPO": ("RGB",),
}  # fmt: skip


def _image_seeds() -> list[bytes]:
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (12, 17, 3), dtype=np.uint8), "RGB")
    deep = Image.fromarray(random.integers(0, 65536, (12, 17)).astype(np.uint16))
    found = []
    for form, modes in _FORMATS.items():
        for mode in modes:
            image = (
                deep if mode == "I;16" else colour.convert("L").convert("LA") if mode == "LA" else colour.convert(mode)
            )
            buffer = io.BytesIO()
            image.save(buffer, form)
            found.append(buffer.getvalue())
    return found


def _require_image(pixels: np.ndarray) -> None:
    require(pixels.dtype == np.uint8, f"pixels of {pixels.dtype}")
    require(pixels.ndim == 2 or pixels.shape[2:] == (3,), f"an image of shape {pixels.shape}")
    require(0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS, f"an image of shape {pixels.shape}")
    batch = batch_from_images([pixels], _SMALL)
    require(batch.shape == (1, 3, 8, 8) and np.isfinite(batch).all(), "an image that cannot be preprocessed")


def _image(seeds: list[bytes], random: Random, folder: Path) -> None:
    seed = random.choice(seeds)
    if seed.startswith(b"\x89PNG") and random.randrange(3):
        data = png_of(random, seed)
    elif random.randrange(4) == 0:
        # A header says how large an image is in its first bytes, whatever its form.
        at, number = random.randrange(min(64, len(seed) - 4)), random.choice(INTEGERS[3:16])
        data = (
            seed[:at] + number.to_bytes(8, random.choice(("little", "big")))[: random.choice((2, 4))] + seed[at + 4 :]
        )
    else:
        data = bytes_of(random, seed)
    path = folder / f"x{random.choice(sorted(IMAGE_SUFFIXES))}"
    path.write_bytes(data)
    _require_image(read_image(path))


IMAGES = Target(
    "image",
    "image files of thirteen forms: bytes, PNG chunks with right check sums, giant sides, bombs; "
    "read_image gives uint8 "
    "of bounded size that can be preprocessed",
    _image_seeds,
    _image,
    2500,
)


def _source_seeds() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (5, 4, 4), dtype=np.uint8)
    header = bytes([0, 0, 8, 3]) + b"".join(side.to_bytes(4, "big") for side in pixels.shape)
    cifar = random.integers(0, 256, (3, 3073), dtype=np.uint8)
    cifar[:, 0] %= 10
    return {
        "images": header + pixels.tobytes(),
        "labels": bytes([0, 0, 8, 1, 0, 0, 0, 5, 0, 3, 9, 1, 7]),
        "cifar": cifar.tobytes(),
    }


def _idx_of(random: Random, data: bytes) -> bytes:
    sides = data[3]
    if random.randrange(3) == 0:
        at = 4 + 4 * random.randrange(sides)
        return data[:at] + (random.choice(INTEGERS) % 2**32).to_bytes(4, "big") + data[at + 4 :]
    if random.randrange(6) == 0:
        return data[:3] + bytes([random.choice((0, 1, 2, 4, 64, 255))]) + data[4:]
    return bytes_of(random, data)


def _source(seeds: dict[str, bytes], random: Random, folder: Path) -> None:
    packed = random.randrange(3) == 0
    if random.randrange(4) == 0:
        (folder / "data_batch_1.bin").write_bytes(bytes_of(random, seeds["cifar"]))
    else:
        changed = random.choice(("images", "labels"))
        for kind, sides in (("images", 3), ("labels", 1)):
            data = _idx_of(random, seeds[kind]) if kind == changed else seeds[kind]
            name = f"train-{kind}-idx{sides}-ubyte"
            if packed:
                data = packed_of(random, data) if kind == changed else gzip.compress(data, mtime=0)
            (folder / (name + ".gz" if packed else name)).write_bytes(data)
    source = open_data(str(folder), "train")
    require(
        len(source) > 0 and 0 <= source.labels.min() <= source.labels.max() < len(source.classes), "labels out of range"
    )
    for index in range(min(len(source), 3)):
        _require_image(source.image(index))
        require(len(source.content_hash(index)) == 64, "no hash")


SOURCES = Target(
    "source",
    "idx files, plain and gzip, and CIFAR's: bytes, sides, lengths; open_data gives images with labels in range",
    _source_seeds,
    _source,
    1200,
)


def _labels_seeds() -> Path:
    return Path(__file__)


def _labels(_seeds: Path, random: Random, folder: Path) -> None:
    lines = [f"class {number}" for number in range(10)]
    path, photograph = folder / "labels.txt", folder / "x.png"
    path.write_bytes(
        bytes_of(
            random,
            random.choice(("\n", "\r\n", "\r", "\u2028"))
            .join(lines)
            .encode(random.choice(("utf-8", "utf-16", "utf-8-sig", "latin-1", "utf-32")), "replace"),
        )
    )
    Image.new("L", (8, 8), 7).save(photograph)
    info = ModelInfo(
        name="x", network=None, preprocessing=Preprocessing(image_size=8, resize_size=8, resize=Resize.STRETCH)
    )
    names = labels_from_file(path)
    require(
        all(
            name and name == name.strip() and all(letter >= " " or letter == "\t" for letter in name) for name in names
        ),
        f"labels {names!r}",
    )
    with FakeSession() as session:
        (found,) = predictions(session, info, [photograph], names)
    require({name for name, _ in found.classes} <= (set(names) or set(map(str, range(10)))), "a class of another name")
    require(abs(sum(share for _, share in found.classes)) <= 1 + 1e-6, "shares of more than everything")


LABELS = Target(
    "labels",
    "files of labels: bytes, encodings, ends of lines; they are as many as the classes, and can be printed",
    _labels_seeds,
    _labels,
    900,
)
